"""What is known of pixels: the photo, its masks and annotations, and the crop of one object."""
