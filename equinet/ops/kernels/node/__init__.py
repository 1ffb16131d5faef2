"""Many-body product of node features, weighted by species."""
