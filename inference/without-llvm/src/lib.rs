//! Stands in for `cubecl-llvm`, whose build script downloads LLVM: a build must not depend on that, nor a
//! measured guest hold it.
//!
//! cubecl's CUDA backend can compile a kernel in two ways: to PTX by LLVM, or to CUDA C++ by NVRTC (its
//! feature `cpp`). Here is the surface of the first that the backend names, and a compiler that refuses;
//! with `cpp` on it is never asked. The workspace's manifest puts this crate in the other's place.

use std::ffi::{CString, c_char};
use std::fmt;

use cubecl_core::ir::nvidia::SmArch;
use cubecl_core::prelude::KernelDefinition;
use cubecl_server::compiler::{CompilationError, Compiler};
use cubecl_server::kernel::BufferIOAttr;

use nvptx::ptx_version::PtxVersion;

/// What to compile for.
#[derive(Clone, Debug, Default)]
pub enum LlvmTarget {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA device.
    Nvptx,
}

/// A compiler that refuses.
#[derive(Clone, Debug, Default)]
pub struct PlironCompiler {
    /// What it would compile for.
    pub target: LlvmTarget,
}

/// What the backend sets before it compiles.
#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    /// The processor's architecture.
    pub arch: Option<()>,
    /// The device's architecture.
    pub sm_arch: Option<SmArch>,
    /// The PTX version that the driver takes.
    pub ptx_version: Option<PtxVersion>,
    /// Parameters are constants of the grid.
    pub grid_constants: bool,
}

/// A compiled kernel, of which there are none.
#[derive(Clone, Debug)]
pub struct NvptxModule {
    /// The assembly.
    pub ptx: Vec<c_char>,
    /// The function to launch.
    pub entrypoint: String,
    /// What it was compiled from.
    pub ir: String,
    /// Bytes of shared memory.
    pub shared_memory_size: usize,
    /// Which buffers it reads and writes.
    pub io: Vec<BufferIOAttr>,
}

/// What a compiler gives.
#[derive(Clone, Debug)]
pub enum PlironArtifact {
    /// Code for a device.
    NvptxCode(NvptxModule),
    /// Nothing.
    None,
}

impl fmt::Display for PlironArtifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Compiler for PlironCompiler {
    type Representation = PlironArtifact;
    type CompilationOptions = PlironOptions;

    fn compile(
        &mut self,
        _: KernelDefinition,
        _: &PlironOptions,
    ) -> Result<PlironArtifact, CompilationError> {
        Err(CompilationError::Generic {
            reason: "this build has no LLVM; kernels are compiled by NVRTC".to_owned(),
            backtrace: Default::default(),
        })
    }

    fn extension(&self) -> &'static str {
        "ll"
    }

    fn lang_tag(&self) -> &'static str {
        "llvm"
    }
}

/// NVIDIA's intermediate language.
pub mod nvptx {
    /// Its versions.
    pub mod ptx_version {
        use super::super::{CString, fmt};

        /// A version, as 10 · major + minor.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct PtxVersion(u32);

        impl PtxVersion {
            /// None: nothing is compiled for any driver.
            pub fn for_driver(_: i32) -> Option<Self> {
                None
            }

            /// What LLVM calls it.
            pub fn target_feature(self) -> CString {
                CString::new(format!("+ptx{}", self.0)).unwrap_or_default()
            }
        }

        impl fmt::Display for PtxVersion {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "ptx{}", self.0)
            }
        }
    }
}

/// What both targets have.
pub mod shared {
    /// Features that LLVM's path leaves out.
    pub mod lowered_features {
        use cubecl_core::ir::DeviceProperties;

        /// A device.
        pub enum GpuTarget {
            /// NVIDIA's.
            Nvptx,
        }

        /// Leaves none out: this path is not taken.
        pub fn restrict_features(_: &mut DeviceProperties, _: GpuTarget) {}
    }
}
