"""Fine-tuning from the fused ranking: mining, networks A and B, training, descriptors."""
