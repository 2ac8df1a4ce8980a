"""Pictures and studies. They use the other packages, which do not import them."""
