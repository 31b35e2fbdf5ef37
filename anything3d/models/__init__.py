"""The networks and their files: how weights are found, checked and loaded, and what each network says."""
