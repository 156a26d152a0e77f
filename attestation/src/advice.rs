//! What to do about a factor: for the worker's operator, and for the author of the policy.

use crate::Check;

impl Check {
    /// The key of a policy that decides about it. `None`: no policy does.
    #[must_use]
    pub const fn policy_key(self) -> Option<&'static str> {
        Some(match self {
            Self::ConfigDigest => "configs",
            Self::Epoch => "max_epoch_age_hours",
            Self::Canary => "models",
            Self::Xfam => "guest.xfam_allowed",
            Self::MrSeam => "guest.mrseam",
            Self::MrTd | Self::Rtmr0 | Self::Rtmr1 | Self::Rtmr2 => "images",
            Self::EventLog => "images.events",
            Self::ImageInLog => "log",
            Self::PlatformUnique => "platform.workers_per_platform",
            Self::TcbEvaluation => "tcb.min_evaluation",
            Self::QeIdentity | Self::TcbStatus => "tcb.accepted",
            Self::PlatformFlags => "platform",
            Self::GpuEvidence => "gpu",
            _ => return None,
        })
    }

    /// What to change where it fails, in a sentence.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::QuoteSize | Self::QuoteStructure => {
                "Worker: hand out the quote as the kernel gives it. A guest of TDX is needed; an SGX enclave is none."
            }
            Self::ReportData | Self::AdvertisedEvidence => {
                "Worker: advertise the evidence that is handed out, and make new one whenever a key changes. Client: the claims or the advert may be forged."
            }
            Self::PeerId => {
                "Client: somebody shows another worker's evidence. Worker: make evidence for the identity that the node runs under."
            }
            Self::NoiseKey | Self::MlKemKey | Self::ReceiptKey => {
                "Worker: make new keys and new evidence; this one is no key."
            }
            Self::ModelDigest => "Worker: advertise the weights that the guest has measured.",
            Self::ConfigDigest => {
                "Policy: add the configuration's digest if you have read it. Worker: run an allowed one."
            }
            Self::Beacon => {
                "Client: see that the chain can be reached and is the worker's. Worker: make new evidence, with a recent block."
            }
            Self::Epoch => "Worker: make new evidence each hour. Both: set the clocks.",
            Self::Canary => {
                "Worker: serve the weights as published, in a number format that the policy knows. Policy: add the digest if you have computed it yourself."
            }
            Self::Debug | Self::SeptVeDisable | Self::TdAttributes => {
                "Worker: start the guest without debug and profiling and with SEPT_VE_DISABLE (QEMU: sept-ve-disable=on). No policy allows anything else."
            }
            Self::Migratable | Self::ServiceTd => {
                "Worker: start the guest without migration and service guests. No policy allows them."
            }
            Self::Xfam => {
                "Worker: switch processor trace and last-branch records off for the guest. Policy: widen the mask only if you know what it tells others."
            }
            Self::MrSeam => {
                "Policy: add the TDX module if Intel has published it. Worker: update it."
            }
            Self::MrTd | Self::Rtmr1 | Self::Rtmr2 => {
                "Worker: run a released image, unchanged. Policy: list it after building it yourself (`cocoon guest measure`), or name a log in which it stands."
            }
            Self::Rtmr0 => {
                "Policy: RTMR0 differs where memory or ACPI tables do; allow its events instead (`cocoon guest log --draft`). Worker: compare the firmware's settings, Secure Boot first."
            }
            Self::Rtmr3 => {
                "Worker: measure model, configuration and GPU before the network is opened, and claim the same."
            }
            Self::EventLog => {
                "Worker: hand out the firmware's log of this boot (/sys/firmware/acpi/tables/data/CCEL), unchanged."
            }
            Self::MrOwner | Self::MrOwnerConfig | Self::MrConfigId => {
                "Worker: start the guest without mrowner, mrownerconfig and mrconfigid. No release uses them."
            }
            Self::ImageInLog => {
                "Worker: attach a proof from `cocoon log prove`, under a checkpoint that enough rebuilders have signed. Policy: name the log and its rebuilders."
            }
            Self::PlatformUnique => {
                "Worker: run one worker on a machine, and keep its identity when it restarts; under a new one, wait for the next hour. Policy: allow more if you know that machines are shared."
            }
            Self::RootPinned | Self::PlatformLabel => {
                "Both: this is evidence of another network. Real and simulated evidence never mix."
            }
            Self::CollateralStructure | Self::CollateralExpiry => {
                "Worker: fetch collateral from Intel's service again; it lives 30 days. Client: set the clock."
            }
            Self::TcbEvaluation => {
                "Worker: fetch newer collateral. Policy: lower the floor only if Intel has nothing newer for this family."
            }
            Self::SignatureChain => {
                "Client: nothing in this evidence can be believed. Worker: quote and collateral have to be of the same platform family, and unchanged."
            }
            Self::RootCrl | Self::PckCrl => {
                "Worker: Intel has revoked a certificate of this machine; it cannot be used."
            }
            Self::QeIdentity => "Worker: update the quoting enclave (the DCAP packages).",
            Self::TdxModule => "Worker: update the TDX module to a release of Intel's.",
            Self::TcbStatus => {
                "Worker: update BIOS, microcode and TDX module, and register the platform again. Policy: accept the status with a grace and the named advisories, if you have read them."
            }
            Self::PlatformFlags => {
                "Policy: known clouds need all three. Worker: change the BIOS settings that the policy forbids."
            }
            Self::GpuEvidence => {
                "Worker: ask the GPUs with this epoch's nonce, in a confidential mode, with drivers that the manifest knows. Policy: import newer RIM files."
            }
            Self::GpuUnique => {
                "Client: two workers show one GPU; at least one of them has not got it."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::TEMPLATE;

    #[test]
    fn keys_that_advice_names_stand_in_the_template() {
        for check in Check::ALL {
            let Some(key) = check.policy_key() else {
                continue;
            };
            let last = key.rsplit('.').next().unwrap_or(key);
            assert!(TEMPLATE.contains(last), "{check}: {key}");
        }
    }

    #[test]
    fn advice_says_who_should_do_what() {
        for check in Check::ALL {
            let advice = check.advice();
            let addressed = ["Worker:", "Client:", "Policy:", "Both:"];
            assert!(
                addressed.iter().any(|who| advice.starts_with(who)),
                "{check}: {advice}"
            );
            assert!(advice.ends_with('.'), "{check}");
        }
    }
}
