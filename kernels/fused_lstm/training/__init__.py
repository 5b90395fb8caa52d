"""Hold what training needs besides layers: recomputation, the loss, dropout, denormals."""
