//! Kernels for the CPU: products with weights that stay quantised, attention over pages, and the small operations between them.
