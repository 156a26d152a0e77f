//! Compiles `proto/*.proto` in pure Rust: no system `protoc` is needed.

use std::error::Error;

const FILES: [&str; 11] = [
    "proto/terms.proto",
    "proto/advert.proto",
    "proto/offer.proto",
    "proto/evidence.proto",
    "proto/collateral.proto",
    "proto/gpu.proto",
    "proto/receipt.proto",
    "proto/release.proto",
    "proto/job.proto",
    "proto/log.proto",
    "proto/vault.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["proto"])?;
    prost_build::Config::new()
        // The documentation of the fields is in the .proto files, where other implementers read it.
        .disable_comments(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
