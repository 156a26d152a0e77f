//! Reading safetensors files.
