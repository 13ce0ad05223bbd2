"""What a layer sees: feature maps, first kernels, an embedding of test images, and several networks' opinions."""
