//! Memory for plain weights.

use std::ops::Deref;

use zeroize::Zeroize as _;

use super::SealedError;

/// Bytes that never had a file: anonymous memory that is kept out of swap and core dumps where the system
/// allows it, and wiped when it is dropped.
///
/// Not guaranteed: that the system allows locking so much (`RLIMIT_MEMLOCK`; see [`Self::is_locked`]), that
/// the process gets to drop it (SIGKILL does not let it; the kernel clears pages before others get them),
/// and what others make of the bytes: kernels lay weights out anew in ordinary memory.
pub struct SecretBytes {
    map: memmap2::MmapMut,
    locked: bool,
}

impl SecretBytes {
    /// So many zeros; at least one.
    ///
    /// # Errors
    /// [`SealedError::Memory`].
    pub fn zeroed(bytes: u64) -> Result<Self, SealedError> {
        let failed = |error| SealedError::Memory { bytes, error };
        let length =
            usize::try_from(bytes).map_err(|_| failed(std::io::ErrorKind::OutOfMemory.into()))?;
        let map = memmap2::MmapMut::map_anon(length).map_err(failed)?;
        #[cfg(target_os = "linux")]
        if let Err(error) = map.advise(memmap2::Advice::DontDump) {
            tracing::warn!(%error, "the weights would be part of a core dump");
        }
        let locked = map.lock().is_ok();
        Ok(Self { map, locked })
    }

    /// Whether the system keeps it out of swap.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }
}

impl Deref for SecretBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.map.as_mut().zeroize();
    }
}

impl std::fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretBytes({} bytes)", self.map.len())
    }
}
