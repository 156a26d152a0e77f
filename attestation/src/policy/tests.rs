#![allow(clippy::unwrap_used)]

use dcap_qvl::TcbStatus;

use super::*;
use crate::Measurement;
use crate::event_log::EventPolicy;

fn image(name: &str) -> Image {
    Image {
        name: name.to_owned(),
        mrtd: Measurement::of(name.as_bytes()),
        rtmr0: Measurement::ZERO,
        rtmr1: Measurement::ZERO,
        rtmr2: Measurement::ZERO,
    }
}

fn policy() -> Policy {
    Policy {
        images: vec![image("one").into()],
        ..Policy::default()
    }
}

fn text_of(policy: &Policy) -> String {
    toml::to_string(policy).unwrap()
}

#[test]
fn a_policy_survives_toml() {
    let policy = Policy {
        name: "release 7".to_owned(),
        required: vec![Check::MrSeam, Check::Canary],
        configs: vec![Digest::sha256(b"config")],
        tcb: TcbPolicy {
            accepted: vec![TcbStatus::UpToDate, TcbStatus::OutOfDate],
            grace_days: 30,
            advisories_allowed: vec!["INTEL-SA-01192".to_owned()],
            ..TcbPolicy::default()
        },
        guest: GuestPolicy {
            mrseam: vec![Measurement::of(b"module")],
            ..GuestPolicy::default()
        },
        images: vec![image("one").into(), image("two").into()],
        models: vec![ModelPolicy {
            digest: Digest::sha256(b"weights"),
            canary: vec![Digest::sha256(b"answers")],
        }],
        ..Policy::default()
    };
    assert_eq!(Policy::from_toml(&text_of(&policy)).unwrap(), policy);
}

#[test]
fn the_template_is_a_policy_but_for_its_images_and_says_nothing_but_the_defaults() {
    assert_eq!(Policy::from_toml(TEMPLATE), Err(PolicyError::NoImages));
    let read: Policy = toml::from_str(TEMPLATE).unwrap();
    assert_eq!(
        Policy {
            name: String::new(),
            ..read
        },
        Policy::default()
    );
}

#[test]
fn the_examples_in_the_template_can_be_meant_once_their_marks_are_taken_away() {
    // Lines of examples begin with `#:`; sentences with `# `.
    let text: String = TEMPLATE
        .lines()
        .map(|line| line.strip_prefix("#:").unwrap_or(line).to_owned() + "\n")
        .collect();
    let policy = Policy::from_toml(&text).unwrap();
    assert_eq!((policy.images.len(), policy.models.len()), (2, 1));
    assert_eq!(policy.log.unwrap().threshold(), 2);
    assert!(policy.gpu_manifest.is_some());
}

#[test]
fn a_file_without_a_version_is_refused_whatever_else_it_says() {
    assert_eq!(Policy::from_toml(""), Err(PolicyError::NoVersion));
    let old = "min_tcb_evaluation = 18";
    assert_eq!(Policy::from_toml(old), Err(PolicyError::NoVersion));
    assert_eq!(
        Policy::from_toml("version = 3\nsomething_new = 1"),
        Err(PolicyError::Version { found: 3 })
    );
}

#[test]
fn a_misspelt_demand_is_refused_and_not_ignored() {
    for line in [
        "requires = []",
        "[tcb]\nmin_evalution = 20",
        "[platform]\nallow_hyperthreading = false",
        "[guest]\nmrseams = []",
        "required = [\"tcb_statuses\"]",
    ] {
        let error = Policy::from_toml(&format!("version = 2\n{line}")).unwrap_err();
        assert!(
            matches!(error, PolicyError::Malformed(_)),
            "{line}: {error}"
        );
    }
}

#[test]
fn what_is_not_written_keeps_its_strict_default() {
    let text = format!("{}\n[platform]\nallow_smt = false", "version = 2");
    let read: Policy = toml::from_str(&text).unwrap();
    let platform = PlatformPolicy {
        allow_smt: false,
        ..PlatformPolicy::default()
    };
    assert_eq!(
        read,
        Policy {
            platform,
            ..Policy::default()
        }
    );
}

#[test]
fn a_policy_without_images_is_refused() {
    assert_eq!(Policy::default().check(), Err(PolicyError::NoImages));
}

#[test]
fn an_image_or_a_model_named_twice_is_refused() {
    let twice = Policy {
        images: vec![image("one").into(), image("one").into()],
        ..policy()
    };
    let name = "one".to_owned();
    assert_eq!(twice.check(), Err(PolicyError::DuplicateImage { name }));
    let digest = Digest::sha256(b"weights");
    let model = ModelPolicy {
        digest,
        canary: vec![Digest::sha256(b"answers")],
    };
    let twice = Policy {
        models: vec![model.clone(), model],
        ..policy()
    };
    assert_eq!(twice.check(), Err(PolicyError::DuplicateModel { digest }));
}

#[test]
fn an_image_says_its_firmwares_configuration_in_one_way() {
    let steps = Vec::new();
    let with = |rtmr0, events| AllowedImage {
        rtmr0,
        events,
        ..image("one").into()
    };
    let events = || {
        Some(EventPolicy {
            steps: steps.clone(),
        })
    };
    for image in [with(None, None), with(Some(Measurement::ZERO), events())] {
        let error = Policy {
            images: vec![image],
            ..policy()
        }
        .check()
        .unwrap_err();
        assert!(matches!(error, PolicyError::EitherOr { .. }), "{error}");
    }
    let empty = Policy {
        images: vec![with(None, events())],
        ..policy()
    };
    assert!(matches!(empty.check(), Err(PolicyError::Events { .. })));
}

#[test]
fn no_policy_accepts_a_revoked_platform_nor_an_outdated_one_for_ever() {
    let with = |accepted: &[TcbStatus], grace_days| {
        Policy {
            tcb: TcbPolicy {
                accepted: accepted.to_vec(),
                grace_days,
                ..TcbPolicy::default()
            },
            ..policy()
        }
        .check()
    };
    use TcbStatus::{OutOfDate, Revoked, UpToDate};
    assert!(with(&[UpToDate], 0).is_ok());
    assert!(with(&[UpToDate, OutOfDate], 30).is_ok());
    for (accepted, grace_days) in [
        (&[UpToDate, Revoked][..], 0),
        (&[OutOfDate], 30),
        (&[], 0),
        (&[UpToDate, OutOfDate], 0),
        (&[UpToDate], 30),
        (&[UpToDate, OutOfDate], 10_000),
    ] {
        assert!(
            with(accepted, grace_days).is_err(),
            "{accepted:?} {grace_days}"
        );
    }
}

#[test]
fn a_factor_cannot_be_required_while_there_is_nothing_to_compare_it_with() {
    for (check, key) in [
        (Check::MrSeam, "guest.mrseam"),
        (Check::ConfigDigest, "configs"),
        (Check::Canary, "models"),
        (Check::ImageInLog, "log"),
        (Check::GpuEvidence, "gpu_manifest"),
    ] {
        let vain = Policy {
            required: vec![check],
            ..policy()
        };
        assert_eq!(
            vain.check(),
            Err(PolicyError::NothingToCompare { check, key })
        );
    }
}

#[test]
fn trace_state_is_not_allowed_by_default() {
    let (processor_trace, last_branches) = (1 << 8, 1 << 15);
    assert_eq!(DEFAULT_XFAM_ALLOWED & (processor_trace | last_branches), 0);
}
