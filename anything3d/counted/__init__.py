"""What a stage costs at full size, counted on tensors without values. No weights and no GPU are needed."""
