"""Pair product: two inputs with channels, coupled channel by channel and summed over paths."""
