"""Metal sources, read as text; `backends/metal` launches them."""
