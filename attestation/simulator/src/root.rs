//! The simulated root, its authorities and its machines.

use std::sync::OnceLock;

use rcgen::{Certificate, CertificateParams, Issuer};
use sha2::{Digest as _, Sha256};

use crate::certificates::{authority, leaf, sgx_extension};
use crate::keys::SeededKey;
use crate::{PPID_LABEL, ROOT_NAME, SimulatorError};

/// Seed of the root that every simulated network shares. Public on purpose: see the crate's docs.
const PUBLIC_SEED: [u8; 32] = *b"cocoon public simulation seed 01";

/// The platform SVN that the newest simulated TCB level asks for.
pub(crate) const CPU_SVN: u8 = 5;
pub(crate) const PCE_SVN: u16 = 11;

/// Serial number of the authority below which all PCK certificates hang.
pub const PCK_CA_SERIAL: u64 = 2;
/// Serial number of the signer of TCB information and enclave identity.
pub const TCB_SIGNER_SERIAL: u64 = 3;

/// One simulated physical machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Platform provisioning id: [`PPID_LABEL`] and 12 bytes from the machine's seed.
    pub ppid: [u8; 16],
    /// Platform instance id; a real one changes when the machine is set up again.
    pub platform_instance: [u8; 16],
    /// Security versions of the platform's components.
    pub cpu_svn: [u8; 16],
    /// Security version of the provisioning certification enclave.
    pub pce_svn: u16,
    /// Serial number of its PCK certificate, to be named in a revocation list.
    pub serial: u64,
}

impl Machine {
    /// The machine of a seed: another seed is another machine, the same seed the same one.
    pub fn from_seed(seed: &[u8]) -> Self {
        let hash: [u8; 32] = Sha256::new()
            .chain_update(b"SIM-MACHINE")
            .chain_update(seed)
            .finalize()
            .into();
        let mut ppid = [0; 16];
        let labelled = PPID_LABEL.iter().chain(hash.iter());
        for (to, from) in ppid.iter_mut().zip(labelled) {
            *to = *from;
        }
        let mut platform_instance = [0; 16];
        for (to, from) in platform_instance.iter_mut().zip(hash.iter().skip(16)) {
            *to = *from;
        }
        let mut serial = [0; 8];
        for (to, from) in serial.iter_mut().zip(hash.iter().skip(8)) {
            *to = *from;
        }
        let mut cpu_svn = [0; 16];
        if let Some(first) = cpu_svn.first_mut() {
            *first = CPU_SVN;
        }
        Self {
            ppid,
            platform_instance,
            cpu_svn,
            pce_svn: PCE_SVN,
            // Positive and eight bytes long whatever the hash is.
            serial: (u64::from_be_bytes(serial) >> 2) | 1 << 61,
        }
    }
}

/// A simulated Intel: one root and all that hangs below it.
pub struct Simulator {
    pub(crate) seed: [u8; 32],
    pub(crate) root_key: SeededKey,
    pub(crate) root_params: CertificateParams,
    pub(crate) root: Certificate,
    pub(crate) pck_ca_key: SeededKey,
    pub(crate) pck_ca_params: CertificateParams,
    pub(crate) pck_ca: Certificate,
    pub(crate) tcb_key: SeededKey,
    pub(crate) tcb_signer: Certificate,
}

impl Simulator {
    /// The simulator that all simulated networks share, built on first use.
    ///
    /// # Errors
    /// As [`Simulator::from_seed`]; the seed is fixed, so it either always or never fails.
    pub fn public() -> Result<&'static Self, SimulatorError> {
        static PUBLIC: OnceLock<Simulator> = OnceLock::new();
        if let Some(ready) = PUBLIC.get() {
            return Ok(ready);
        }
        let built = Self::from_seed(PUBLIC_SEED)?;
        Ok(PUBLIC.get_or_init(|| built))
    }

    /// A root of its own. No verifier trusts one whose seed is not the public seed; tests use it
    /// to play a forger.
    ///
    /// # Errors
    /// If the X.509 builder refuses or no key can be derived.
    pub fn from_seed(seed: [u8; 32]) -> Result<Self, SimulatorError> {
        let root_key = SeededKey::derive(&seed, "root")?;
        let root_params = authority(ROOT_NAME, 1)?;
        let root = root_params.clone().self_signed(&root_key)?;
        let root_issuer = Issuer::new(root_params.clone(), root_key.clone());

        let pck_ca_key = SeededKey::derive(&seed, "pck ca")?;
        let pck_ca_params = authority("COCOON SIM PCK Platform CA", PCK_CA_SERIAL)?;
        let pck_ca = pck_ca_params.clone().signed_by(&pck_ca_key, &root_issuer)?;

        // Issued by the root itself: the verifier refuses a TCB signer at any other depth.
        let tcb_key = SeededKey::derive(&seed, "tcb")?;
        let tcb_signer =
            leaf("COCOON SIM TCB Signing", TCB_SIGNER_SERIAL)?.signed_by(&tcb_key, &root_issuer)?;

        Ok(Self {
            seed,
            root_key,
            root_params,
            root,
            pck_ca_key,
            pck_ca_params,
            pck_ca,
            tcb_key,
            tcb_signer,
        })
    }

    /// The root certificate, DER.
    pub fn root_der(&self) -> &[u8] {
        self.root.der()
    }

    /// The machine's PCK certificate and key.
    pub(crate) fn pck(
        &self,
        machine: &Machine,
    ) -> Result<(Certificate, SeededKey), SimulatorError> {
        let key = SeededKey::derive(&self.seed, &format!("pck/{}", hex::encode(machine.ppid)))?;
        let mut params = leaf("COCOON SIM PCK Certificate", machine.serial)?;
        params.custom_extensions.push(sgx_extension(machine));
        let issuer = Issuer::new(self.pck_ca_params.clone(), self.pck_ca_key.clone());
        Ok((params.signed_by(&key, &issuer)?, key))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn the_root_is_a_function_of_its_seed() {
        let one = Simulator::from_seed([7; 32]).unwrap();
        let two = Simulator::from_seed([7; 32]).unwrap();
        assert_eq!(one.root_der(), two.root_der());
        assert_ne!(
            one.root_der(),
            Simulator::from_seed([8; 32]).unwrap().root_der()
        );
    }

    #[test]
    fn the_root_says_in_its_name_what_it_is() {
        let der = Simulator::public().unwrap().root_der();
        let name = ROOT_NAME.as_bytes();
        assert!(der.windows(name.len()).any(|window| window == name));
    }

    #[test]
    fn each_machine_has_its_own_labelled_platform_id() {
        let one = Machine::from_seed(b"1");
        let two = Machine::from_seed(b"2");
        assert_eq!(one, Machine::from_seed(b"1"));
        assert_ne!(one.ppid, two.ppid);
        assert_ne!(one.serial, two.serial);
        assert_eq!(one.ppid[..4], PPID_LABEL);
    }
}
