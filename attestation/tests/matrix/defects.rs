//! Every single defect that software can make, and the factor that has to see it.

use cocoon_attestation::policy::{ModelPolicy, simulated};
use cocoon_attestation::{Check, Image, Measurement};
use cocoon_protocol::evidence::EvidenceBundle;
use cocoon_protocol::ids::Digest;
use cocoon_protocol::log::ImageProof;
use cocoon_tdx_simulator::{PCK_CA_SERIAL, TCB_SIGNER_SERIAL, TcbStatus};

use super::source::{Scene, Told};
use super::touch::{
    ENCLAVE, ENCLAVE_SIGNATURE, KEY, collateral, flip_behind, flip_last, replaced,
    touch_certificate,
};
use crate::support;

/// What is done to a scene in which nothing is wrong.
pub(crate) enum Change {
    /// To what is made: guest, machine, claims that the quote binds, collateral.
    Made(fn(&mut Scene)),
    /// The same, for reports of TD 1.5 only.
    Made15(fn(&mut Scene)),
    /// To what is shown, after it was made.
    Shown(fn(&mut EvidenceBundle)),
    /// To what the client was told.
    Told(fn(&mut Told)),
    /// To what the policy demands, or to the time.
    Demanded(fn(&mut Scene)),
}

pub(crate) struct Defect {
    pub(crate) name: &'static str,
    pub(crate) seen_by: Check,
    pub(crate) change: Change,
}

const fn defect(name: &'static str, seen_by: Check, change: Change) -> Defect {
    Defect {
        name,
        seen_by,
        change,
    }
}

use Change::{Demanded, Made, Made15, Shown, Told as ToldOther};

/// A bundle whose claims are not those that the quote binds. The client was told the same lie.
macro_rules! lie {
    ($name:literal, |$claims:ident| $change:expr) => {
        defect(
            concat!("claims changed after the quote: ", $name),
            Check::ReportData,
            Shown(|bundle| {
                let $claims = &mut bundle.claims;
                $change;
            }),
        )
    };
}

macro_rules! guest {
    ($name:literal, $check:ident, |$report:ident| $change:expr) => {
        defect(
            $name,
            Check::$check,
            Made(|scene| {
                let $report = &mut scene.report.base;
                $change;
            }),
        )
    };
}

macro_rules! terms {
    ($name:literal, $check:ident, |$terms:ident| $change:expr) => {
        defect(
            $name,
            Check::$check,
            Made(|scene| {
                let $terms = &mut scene.terms;
                $change;
            }),
        )
    };
}

pub(crate) fn all() -> Vec<Defect> {
    let mut all = Vec::new();
    all.extend(quotes());
    all.extend(claims());
    all.extend(guests());
    all.extend(logs());
    all.extend(collaterals());
    all.extend(demands());
    all
}

fn quotes() -> Vec<Defect> {
    vec![
        defect(
            "oversized",
            Check::QuoteSize,
            Shown(|bundle| bundle.quote.resize(16 * 1024 + 1, 0)),
        ),
        defect(
            "truncated",
            Check::QuoteStructure,
            Shown(|bundle| bundle.quote.truncate(900)),
        ),
        defect(
            "no quote at all",
            Check::QuoteStructure,
            Shown(|bundle| bundle.quote = vec![0; 700]),
        ),
        defect(
            "a byte behind it",
            Check::QuoteStructure,
            Shown(|bundle| bundle.quote.push(1)),
        ),
        defect(
            "an enclave of SGX, by its version",
            Check::QuoteStructure,
            Shown(|bundle| bundle.quote[0] = 3),
        ),
        defect(
            "another quoting enclave's vendor",
            Check::SignatureChain,
            Shown(|bundle| bundle.quote[12] ^= 1),
        ),
        defect(
            "signature over the report flipped",
            Check::SignatureChain,
            Shown(|bundle| flip_behind(bundle, 0)),
        ),
        defect(
            "attestation key flipped",
            Check::SignatureChain,
            Shown(|bundle| flip_behind(bundle, KEY)),
        ),
        defect(
            "enclave's report flipped",
            Check::SignatureChain,
            Shown(|bundle| flip_behind(bundle, ENCLAVE)),
        ),
        defect(
            "enclave's signature flipped",
            Check::SignatureChain,
            Shown(|bundle| flip_behind(bundle, ENCLAVE_SIGNATURE)),
        ),
        defect(
            "platform's certificate touched",
            Check::SignatureChain,
            Shown(|bundle| touch_certificate(bundle, 0)),
        ),
        defect(
            "authority's certificate touched",
            Check::SignatureChain,
            Shown(|bundle| touch_certificate(bundle, 1)),
        ),
    ]
}

fn claims() -> Vec<Defect> {
    vec![
        lie!("X25519 key", |claims| claims.noise_key = [8; 32]),
        lie!("ML-KEM key", |claims| claims.mlkem_key = vec![1; 1_184]),
        lie!("receipt key", |claims| claims.receipt_key = [7; 32]),
        lie!("peer", |claims| claims.peer = support::peer(2)),
        lie!("model", |claims| claims.model = Digest::sha256(b"larger")),
        lie!("configuration", |claims| claims.config =
            Digest::sha256(b"o")),
        defect(
            "claims changed after the quote: GPU",
            Check::ReportData,
            Shown(|bundle| {
                bundle.attached.gpu_evidence = b"8".to_vec();
                bundle.claims.gpu_evidence = Digest::sha256(b"8");
            }),
        ),
        lie!("beacon", |claims| claims.beacon = support::beacons()[1]),
        lie!("epoch", |claims| claims.epoch -= 1),
        lie!("canary", |claims| claims.canary = Digest::sha256(b"42")),
        defect(
            "no X25519 key",
            Check::NoiseKey,
            Made(|scene| scene.claim(|claims| claims.noise_key = [0; 32])),
        ),
        defect(
            "no ML-KEM key",
            Check::MlKemKey,
            Made(|scene| scene.claim(|claims| claims.mlkem_key = vec![0xff; 1_184])),
        ),
        defect(
            "no receipt key",
            Check::ReceiptKey,
            Made(|scene| scene.claim(|claims| claims.receipt_key = [0; 32])),
        ),
        defect(
            "made three hours ago",
            Check::Epoch,
            Made(|scene| scene.claim(|claims| claims.epoch -= 3)),
        ),
        defect(
            "made in two hours",
            Check::Epoch,
            Made(|scene| scene.claim(|claims| claims.epoch += 2)),
        ),
        defect(
            "an old block",
            Check::Beacon,
            Made(|scene| scene.claim(|claims| claims.beacon.seqno = 3)),
        ),
        defect(
            "a block of another chain",
            Check::Beacon,
            Made(|scene| scene.claim(|claims| claims.beacon.hash = Digest::sha256(b"fork"))),
        ),
        defect(
            "a GPU that nobody has shown",
            Check::GpuEvidence,
            Made(|scene| scene.claim(|claims| claims.gpu_evidence = Digest::sha256(b"GPU"))),
        ),
        defect(
            "GPU evidence that the quote does not bind",
            Check::GpuEvidence,
            Shown(|bundle| bundle.attached.gpu_evidence = vec![1; 100]),
        ),
        defect(
            "GPU evidence that is none",
            Check::GpuEvidence,
            Made(|scene| {
                scene.attached.gpu_evidence = vec![7; 100];
                scene.claim(|claims| claims.gpu_evidence = Digest::sha256(&[7; 100]));
            }),
        ),
        defect(
            "another model than the measured one",
            Check::Rtmr3,
            Made(|scene| {
                let launched = scene.report.base.rt_mr3;
                scene.claim(|claims| claims.model = Digest::sha256(b"larger"));
                scene.report.base.rt_mr3 = launched;
            }),
        ),
        defect(
            "other answers to the known questions",
            Check::Canary,
            Made(|scene| {
                scene.claim(|claims| claims.canary = Digest::sha256(b"quantised"));
                scene.policy.models = known_answers(scene);
            }),
        ),
        defect(
            "the evidence of another advert",
            Check::AdvertisedEvidence,
            ToldOther(|told| told.evidence = Digest::sha256(b"other")),
        ),
        defect(
            "another peer at the other end",
            Check::PeerId,
            ToldOther(|told| told.claims.peer = support::peer(2)),
        ),
        defect(
            "another model in the advert",
            Check::ModelDigest,
            ToldOther(|told| told.claims.model = Digest::sha256(b"larger")),
        ),
        defect(
            "no block is known",
            Check::Beacon,
            ToldOther(|told| told.beacons.clear()),
        ),
        defect(
            "newer collateral was seen elsewhere",
            Check::TcbEvaluation,
            ToldOther(|told| told.evaluation_floor = 1_000),
        ),
    ]
}

fn known_answers(scene: &Scene) -> Vec<ModelPolicy> {
    vec![ModelPolicy {
        digest: scene.claims.model,
        canary: vec![Digest::sha256(b"right")],
    }]
}

fn guests() -> Vec<Defect> {
    vec![
        guest!("debug", Debug, |report| report.td_attributes[0] |= 1),
        guest!("profiling", TdAttributes, |report| {
            report.td_attributes[0] |= 0x10;
        }),
        guest!("a reserved attribute", TdAttributes, |report| {
            report.td_attributes[1] |= 1;
        }),
        guest!("faults for the guest", SeptVeDisable, |report| {
            report.td_attributes[3] &= !0x10;
        }),
        guest!("migration", Migratable, |report| {
            report.td_attributes[3] |= 0x20;
        }),
        guest!("service guests allowed", ServiceTd, |report| {
            report.td_attributes[2] |= 0x02;
        }),
        defect(
            "a service guest bound",
            Check::ServiceTd,
            Made15(|scene| scene.report.mr_service_td = [1; 48]),
        ),
        guest!("processor trace", Xfam, |report| report.xfam[1] |= 1),
        guest!("no SSE", Xfam, |report| report.xfam[0] &= !2),
        guest!("firmware", MrTd, |report| report.mr_td = [1; 48]),
        guest!("firmware's configuration", Rtmr0, |report| {
            report.rt_mr0 = [1; 48];
        }),
        guest!("kernel", Rtmr1, |report| report.rt_mr1 = [1; 48]),
        guest!("command line", Rtmr2, |report| report.rt_mr2 = [1; 48]),
        guest!("nothing measured", Rtmr3, |report| report.rt_mr3 = [0; 48]),
        guest!("an owner", MrOwner, |report| report.mr_owner = [1; 48]),
        guest!("an owner's configuration", MrOwnerConfig, |report| {
            report.mr_owner_config = [1; 48];
        }),
        guest!("the host's configuration", MrConfigId, |report| {
            report.mr_config_id = [1; 48];
        }),
        guest!("module of another signer", TdxModule, |report| {
            report.mr_signer_seam = [1; 48];
        }),
        guest!("module with attributes", TdxModule, |report| {
            report.seam_attributes[0] = 1;
        }),
        guest!("module too old", TdxModule, |report| {
            report.tee_tcb_svn[0] = 4;
        }),
        guest!("module of an unknown line", TdxModule, |report| {
            report.tee_tcb_svn[1] = 9;
        }),
        defect(
            "module changed for one that is too old",
            Check::TdxModule,
            Made15(|scene| scene.report.tee_tcb_svn2[0] = 4),
        ),
        defect(
            "microcode too old",
            Check::TcbStatus,
            Made(|scene| scene.machine.cpu_svn[0] = 4),
        ),
        defect(
            "provisioning enclave too old",
            Check::TcbStatus,
            Made(|scene| scene.machine.pce_svn = 1),
        ),
    ]
}

fn logs() -> Vec<Defect> {
    vec![
        defect(
            "an event log that is none",
            Check::EventLog,
            Made(|scene| scene.attached.event_log = vec![7; 100]),
        ),
        defect(
            "the event log of another boot",
            Check::EventLog,
            Made(|scene| scene.boots("FS", "FX")),
        ),
        defect(
            "no event log where the image asks for one",
            Check::EventLog,
            Made(|scene| scene.boots("FS", "")),
        ),
        defect(
            "an event that is not allowed",
            Check::Rtmr0,
            Made(|scene| scene.boots("FX", "FX")),
        ),
        defect(
            "an event too many",
            Check::Rtmr0,
            Made(|scene| scene.boots("FSF", "FSF")),
        ),
        defect(
            "an event too few",
            Check::Rtmr0,
            Made(|scene| scene.boots("F", "F")),
        ),
        defect(
            "the proof of another image",
            Check::ImageInLog,
            Made(|scene| {
                let images = scene.policy.images.clone();
                let other = Image {
                    mrtd: Measurement::of(b"other"),
                    ..simulated::image()
                };
                scene.logged(other, &support::rebuilding());
                scene.policy.images = images;
            }),
        ),
        defect(
            "a proof that too few rebuilders signed",
            Check::ImageInLog,
            Made(|scene| {
                let images = scene.policy.images.clone();
                scene.logged(simulated::image(), &support::rebuilding()[..1]);
                scene.policy.images = images;
            }),
        ),
        defect(
            "a proof that leads nowhere",
            Check::ImageInLog,
            Made(|scene| {
                let images = scene.policy.images.clone();
                scene.logged(simulated::image(), &support::rebuilding());
                let mut proof = ImageProof::decode(&scene.attached.image_proof).unwrap();
                proof.path = vec![Digest::sha256(b"other")];
                scene.attached.image_proof = proof.encode();
                scene.policy.images = images;
            }),
        ),
    ]
}

fn collaterals() -> Vec<Defect> {
    vec![
        terms!("expired", CollateralExpiry, |terms| terms
            .lifetime_seconds =
            3_600),
        terms!("from the future", CollateralExpiry, |terms| terms.issued +=
            7 * 24 * 3_600),
        terms!("old evaluation", TcbEvaluation, |terms| terms.evaluation =
            16),
        terms!("out of date", TcbStatus, |terms| terms.platform_status =
            TcbStatus::OutOfDate),
        terms!("hardening needed", TcbStatus, |terms| {
            terms.platform_status = TcbStatus::SWHardeningNeeded;
        }),
        terms!("configuration needed", TcbStatus, |terms| {
            terms.platform_status = TcbStatus::ConfigurationNeeded;
        }),
        terms!("both needed", TcbStatus, |terms| {
            terms.platform_status = TcbStatus::ConfigurationAndSWHardeningNeeded;
        }),
        terms!("out of date, configuration needed", TcbStatus, |terms| {
            terms.platform_status = TcbStatus::OutOfDateConfigurationNeeded;
        }),
        terms!("platform's level revoked", TcbStatus, |terms| {
            terms.platform_status = TcbStatus::Revoked;
        }),
        terms!("enclave out of date", QeIdentity, |terms| {
            terms.enclave_status = TcbStatus::OutOfDate;
        }),
        terms!("enclave revoked", QeIdentity, |terms| {
            terms.enclave_status = TcbStatus::Revoked;
        }),
        terms!("enclave of another signer", QeIdentity, |terms| {
            terms.enclave_signer = [1; 32];
        }),
        terms!("platforms' authority revoked", RootCrl, |terms| {
            terms.revoked_authorities = vec![PCK_CA_SERIAL];
        }),
        terms!("signer of collateral revoked", RootCrl, |terms| {
            terms.revoked_authorities = vec![TCB_SIGNER_SERIAL];
        }),
        defect(
            "platform revoked",
            Check::PckCrl,
            Made(|scene| scene.terms.revoked = vec![scene.machine.serial]),
        ),
        defect(
            "none",
            Check::CollateralStructure,
            Shown(|bundle| bundle.collateral_json.clear()),
        ),
        defect(
            "an empty object",
            Check::CollateralStructure,
            Shown(|bundle| bundle.collateral_json = b"{}".to_vec()),
        ),
        defect(
            "oversized collateral",
            Check::CollateralStructure,
            Shown(|bundle| bundle.collateral_json.resize(65 * 1_024, b' ')),
        ),
        defect(
            "an empty revocation list",
            Check::CollateralStructure,
            Shown(|bundle| collateral(bundle, |whole| whole.pck_crl.clear())),
        ),
        defect(
            "TCB information touched",
            Check::SignatureChain,
            Shown(|bundle| {
                collateral(bundle, |whole| {
                    replaced(&mut whole.tcb_info, "\"tcbType\":0", "\"tcbType\":1");
                });
            }),
        ),
        defect(
            "enclave's identity touched",
            Check::SignatureChain,
            Shown(|bundle| {
                collateral(bundle, |whole| {
                    replaced(&mut whole.qe_identity, "\"TD_QE\"", "\"TD_QF\"");
                });
            }),
        ),
        defect(
            "signature of TCB information flipped",
            Check::SignatureChain,
            Shown(|bundle| collateral(bundle, |whole| flip_last(&mut whole.tcb_info_signature))),
        ),
        defect(
            "signature of the enclave's identity flipped",
            Check::SignatureChain,
            Shown(|bundle| collateral(bundle, |whole| flip_last(&mut whole.qe_identity_signature))),
        ),
        defect(
            "root's revocation list flipped",
            Check::SignatureChain,
            Shown(|bundle| collateral(bundle, |whole| flip_last(&mut whole.root_ca_crl))),
        ),
        defect(
            "platforms' revocation list flipped",
            Check::SignatureChain,
            Shown(|bundle| collateral(bundle, |whole| flip_last(&mut whole.pck_crl))),
        ),
        defect(
            "the root's list in place of the platforms'",
            Check::SignatureChain,
            Shown(|bundle| {
                collateral(bundle, |whole| {
                    whole.pck_crl = whole.root_ca_crl.clone();
                });
            }),
        ),
    ]
}

fn demands() -> Vec<Defect> {
    vec![
        defect(
            "another TDX module is demanded",
            Check::MrSeam,
            Demanded(|scene| scene.policy.guest.mrseam = vec![Measurement::of(b"other")]),
        ),
        defect(
            "another configuration is demanded",
            Check::ConfigDigest,
            Demanded(|scene| scene.policy.configs = vec![Digest::sha256(b"other")]),
        ),
        defect(
            "answers are demanded that nobody asked for",
            Check::Canary,
            Demanded(|scene| scene.policy.models = known_answers(scene)),
        ),
        defect(
            "a newer evaluation is demanded",
            Check::TcbEvaluation,
            Demanded(|scene| scene.policy.tcb.min_evaluation = 1_000),
        ),
        defect(
            "another set-up is demanded",
            Check::PlatformFlags,
            Demanded(|scene| {
                scene.policy.platform.allow_dynamic_platform = false;
                scene.policy.platform.allow_cached_keys = false;
                scene.policy.platform.allow_smt = false;
            }),
        ),
        defect(
            "an image in a log is demanded",
            Check::ImageInLog,
            Demanded(|scene| {
                scene.policy.log = Some(support::rebuilders());
                scene.policy.required = vec![Check::ImageInLog];
            }),
        ),
        defect(
            "an event log is demanded",
            Check::EventLog,
            Demanded(|scene| scene.policy.required = vec![Check::EventLog]),
        ),
        defect(
            "GPUs are demanded",
            Check::GpuEvidence,
            Demanded(|scene| {
                scene.policy.gpu_manifest = Some(Digest::ZERO);
                scene.policy.required = vec![Check::GpuEvidence];
            }),
        ),
        defect(
            "a census is demanded where there is none",
            Check::PlatformUnique,
            Demanded(|scene| scene.policy.required = vec![Check::PlatformUnique]),
        ),
    ]
}
