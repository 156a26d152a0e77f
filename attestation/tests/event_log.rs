//! Event logs: built by the specification, read back, replayed; and whatever a stranger sends.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

#[path = "support/event_logs.rs"]
mod event_logs;

use cocoon_attestation::Measurement;
use cocoon_attestation::event_log::{
    Binding, Content, Event, EventKind, EventLogError, EventPolicy, EventPolicyError, Finding,
    Guid, MAX_EVENT_BYTES, MAX_EVENT_LOG_BYTES, MAX_EVENTS, ProvenLog, ReadLogError, Replay, Step,
    read_log, replay,
};
use event_logs::{SHA256, SHA384, event, header, honest, like_ovmf, raw, variable, written};
use proptest::prelude::*;

fn proven(events: &[Event]) -> ProvenLog {
    let replay = replay(&written(events)).unwrap();
    let [rtmr0, rtmr1, rtmr2, _] = replay.rtmr;
    replay.proven_by(&[rtmr0, rtmr1, rtmr2]).unwrap()
}

fn drafted() -> EventPolicy {
    EventPolicy::drafted_from(proven(&like_ovmf(b"")).replay())
}

fn step(name: &str, event: EventKind, digests: Vec<Measurement>) -> Step {
    Step {
        name: name.to_owned(),
        event,
        digests,
        varies: None,
        optional: false,
    }
}

#[test]
fn digests_are_those_that_real_machines_measured() {
    // From logs of TDX machines of three operators, by the published tests of dstack and of Google's
    // go-eventlog.
    let digests = like_ovmf(b"")
        .iter()
        .map(|event| event.digest.to_string())
        .collect::<Vec<_>>();
    for (at, start) in [
        (2, "9dc3a1f80bcec915"),
        (3, "6f2e3cbc14f9def8"),
        (4, "d607c0efb41c0d75"),
        (5, "08a74f8963b337ac"),
        (6, "18cc6e01f0c6ea99"),
        (7, "394341b7182cd227"),
        (12, "1dd6f7b457ad880d"),
        (14, "77a0dab2312b4e1e"),
        (17, "214b0bef13797560"),
    ] {
        assert!(
            digests[at].starts_with(start),
            "event {at}: {}",
            digests[at]
        );
    }
}

#[test]
fn every_kind_of_data_is_read_and_only_hashed_data_is_vouched_for() {
    let log = proven(&like_ovmf(b"\x01"));
    let shown = log
        .replay()
        .events
        .iter()
        .map(|event| (event.content().to_string(), event.binding()))
        .collect::<Vec<_>>();
    let is = |at: usize, text: &str, binding| assert_eq!(shown[at], (text.to_owned(), binding));
    is(0, "TdxTable", Binding::Label);
    is(1, "Fv(XXXXXXXX)", Binding::Label);
    is(2, "SecureBoot, 1 bytes", Binding::Data);
    is(7, "", Binding::Data);
    is(8, "ACPI DATA", Binding::Label);
    is(11, "kernel, 5252096 bytes", Binding::Label);
    is(12, "BootOrder, 2 bytes", Binding::Value);
    is(
        14,
        "Calling EFI Application from Boot Option",
        Binding::Data,
    );
    is(16, "Linux initrd", Binding::Label);
    let content = log.replay().events[2].content();
    let Content::Variable { vendor, value, .. } = content else {
        panic!("{content:?}");
    };
    assert_eq!(vendor.to_string(), "8be4df61-93ca-11d2-aa0d-00e098032b8c");
    assert_eq!(value, Measurement::of(b"\x01"));
}

#[test]
fn text_in_two_bytes_a_character_is_read_too() {
    let wide = "initrd=x\0"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect::<Vec<_>>();
    assert_eq!(
        honest(2, EventKind::IPL, &wide).content(),
        Content::Text("initrd=x".to_owned())
    );
    assert_eq!(
        honest(2, EventKind::IPL, b"a\x1b[2Jb").content(),
        Content::Bytes,
        "control characters are not shown to anybody"
    );
}

#[test]
fn a_drafted_policy_takes_the_same_firmware_on_another_machine() {
    let mut elsewhere = like_ovmf(b"");
    for at in [0, 8, 9, 10] {
        elsewhere[at].digest = Measurement::of(b"another host");
    }
    assert_eq!(drafted().judge(&proven(&elsewhere)), []);
}

#[test]
fn another_value_of_a_secure_boot_variable_is_found_by_name() {
    let findings = drafted().judge(&proven(&like_ovmf(b"\x01")));
    let [
        Finding::Digest {
            position: 2, name, ..
        },
    ] = findings.as_slice()
    else {
        panic!("{findings:?}");
    };
    assert!(name.starts_with("SecureBoot"), "{name}");
}

#[test]
fn an_event_that_no_step_knows_is_refused() {
    let mut more = like_ovmf(b"");
    more.push(honest(0, EventKind::VARIABLE_AUTHORITY, b"a key of mine"));
    assert!(matches!(
        drafted().judge(&proven(&more)).as_slice(),
        [Finding::Unexpected { position: 13, .. }]
    ));
}

#[test]
fn an_event_that_is_missing_is_missed() {
    let mut less = like_ovmf(b"");
    less.remove(13);
    assert!(matches!(
        drafted().judge(&proven(&less)).as_slice(),
        [Finding::Missing { name }] if name.starts_with("Boot0000")
    ));
}

#[test]
fn keys_cannot_be_hidden_by_calling_them_tables_of_the_host() {
    // The sender of a log can write any type beside a digest.
    let mut relabelled = like_ovmf(b"");
    relabelled[3] = event(
        0,
        EventKind::PLATFORM_CONFIG_FLAGS,
        Measurement::of(&variable(Guid::GLOBAL_VARIABLE, "PK", b"my key")),
        b"ACPI DATA",
    );
    let findings = drafted().judge(&proven(&relabelled));
    assert!(
        findings
            .iter()
            .any(|finding| matches!(finding, Finding::Digest { position: 3, .. })),
        "{findings:?}"
    );
    // Nor by adding one more of them.
    let mut one_more = like_ovmf(b"");
    one_more.insert(8, relabelled[3].clone());
    assert_ne!(drafted().judge(&proven(&one_more)), []);
}

#[test]
fn an_optional_step_may_be_missing_but_not_different() {
    let mut policy = drafted();
    policy.steps[12].optional = true;
    let mut without = like_ovmf(b"");
    without.remove(13);
    assert_eq!(policy.judge(&proven(&without)), []);
    assert_eq!(policy.judge(&proven(&like_ovmf(b""))), []);
    let mut other = like_ovmf(b"");
    other[13].digest = Measurement::of(b"other");
    assert!(matches!(
        policy.judge(&proven(&other)).as_slice(),
        [Finding::Unexpected { position: 12, .. }]
    ));
}

#[test]
fn a_policy_survives_toml_and_is_written_by_names() {
    let policy = drafted();
    let text = toml::to_string(&policy).unwrap();
    assert!(
        text.contains("event = \"EV_EFI_VARIABLE_DRIVER_CONFIG\""),
        "{text}"
    );
    assert!(
        text.contains("varies = \"the host makes ACPI tables\""),
        "{text}"
    );
    assert_eq!(toml::from_str::<EventPolicy>(&text).unwrap(), policy);
    assert!(toml::from_str::<EventPolicy>(&format!("{text}\nmay_be_absent = true")).is_err());
    let unknown = toml::from_str::<EventPolicy>(
        "[[steps]]\nname = \"x\"\nevent = \"EV_SEPERATOR\"\nvaries = \"y\"",
    );
    assert!(unknown.is_err());
    let number = toml::from_str::<EventPolicy>(
        "[[steps]]\nname = \"x\"\nevent = \"0x80000010\"\nvaries = \"y\"",
    );
    assert_eq!(number.unwrap().steps[0].event, EventKind(0x8000_0010));
}

#[test]
fn a_policy_that_cannot_be_meant_is_refused_and_accepts_nothing() {
    let separator = step("end", EventKind::SEPARATOR, vec![Measurement::of(&[0; 4])]);
    let neither = step("x", EventKind::SEPARATOR, Vec::new());
    let both = Step {
        varies: Some("why not".to_owned()),
        ..separator.clone()
    };
    let optional_any = Step {
        varies: Some("why not".to_owned()),
        optional: true,
        ..neither.clone()
    };
    for (step, error) in [
        (
            neither,
            EventPolicyError::EitherOr {
                name: "x".to_owned(),
            },
        ),
        (
            both,
            EventPolicyError::EitherOr {
                name: "end".to_owned(),
            },
        ),
        (
            optional_any,
            EventPolicyError::OptionalAny {
                name: "x".to_owned(),
            },
        ),
    ] {
        let policy = EventPolicy { steps: vec![step] };
        assert_eq!(policy.check(), Err(error));
        assert_ne!(
            policy.judge(&proven(&[honest(0, EventKind::SEPARATOR, &[0; 4])])),
            []
        );
        assert_ne!(policy.judge(&proven(&[])), []);
    }
    assert_eq!(EventPolicy::default().check(), Err(EventPolicyError::Empty));
    assert_ne!(EventPolicy::default().judge(&proven(&[])), []);
}

#[test]
fn a_log_of_another_boot_is_not_proven_by_the_quote() {
    let honest = replay(&written(&like_ovmf(b""))).unwrap();
    let [rtmr0, rtmr1, rtmr2, _] = honest.rtmr;
    let mut shortened = like_ovmf(b"\x01");
    shortened.truncate(2);
    let error = replay(&written(&shortened))
        .unwrap()
        .proven_by(&[rtmr0, rtmr1, rtmr2])
        .unwrap_err();
    assert_eq!((error.register, error.quoted), (0, rtmr0));
    let error = honest
        .proven_by(&[rtmr0, rtmr1, Measurement::ZERO])
        .unwrap_err();
    assert_eq!(error.register, 2);
}

#[test]
fn filling_after_the_log_is_cut_off_and_anything_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let area = folder.path().join("CCEL");
    let log = written(&like_ovmf(b""));
    for filling in [0xff, 0] {
        let mut filled = log.clone();
        filled.resize(64 * 1024, filling);
        std::fs::write(&area, &filled).unwrap();
        assert_eq!(read_log(&area).unwrap(), log);
        let last = filled.len() - 1;
        filled[last] ^= 1;
        std::fs::write(&area, &filled).unwrap();
        assert!(matches!(read_log(&area), Err(ReadLogError::Log(_))));
    }
    assert!(matches!(
        read_log(&folder.path().join("none")),
        Err(ReadLogError::Io { .. })
    ));
    std::fs::write(&area, vec![0xff; 1024 * 1024 + 1]).unwrap();
    assert!(matches!(read_log(&area), Err(ReadLogError::Area)));
}

#[test]
fn several_algorithms_are_read_and_sha_384_is_taken() {
    let event = |digests: &[(u16, Vec<u8>)]| {
        let mut log = header(&[SHA256, SHA384]);
        log.extend(raw(2, EventKind::SEPARATOR, digests, &[0; 4]));
        replay(&log)
    };
    let [short, long] = [(SHA256.0, vec![1; 32]), (SHA384.0, vec![2; 48])];
    let read = event(&[short.clone(), long.clone()]).unwrap();
    assert_eq!(read.events[0].digest, Measurement::from_bytes([2; 48]));
    assert_eq!(
        read.rtmr[1],
        Measurement::ZERO.extended(Measurement::from_bytes([2; 48]))
    );
    for digests in [
        vec![short.clone(), short.clone()],
        vec![long.clone(), long.clone()],
        vec![long],
        vec![short, (0x0d, vec![0; 64])],
    ] {
        assert!(matches!(
            event(&digests),
            Err(EventLogError::Digests { .. })
        ));
    }
}

#[test]
fn what_is_not_measured_is_left_out() {
    let mut log = header(&[SHA384]);
    log.extend(raw(
        0,
        EventKind::NO_ACTION,
        &[(SHA384.0, vec![7; 48])],
        b"anybody's",
    ));
    assert_eq!(
        replay(&log).unwrap(),
        Replay {
            rtmr: [Measurement::ZERO; 4],
            events: Vec::new()
        }
    );
}

#[test]
fn limits_have_names_and_hold() {
    let digest = [(SHA384.0, vec![0; 48])];
    let log = |index, kind, data: &[u8]| {
        let mut log = header(&[SHA384]);
        log.extend(raw(index, kind, &digest, data));
        replay(&log)
    };
    let at = header(&[SHA384]).len();
    for index in [0, 5, 1 << 31] {
        assert_eq!(
            log(index, EventKind::SEPARATOR, &[1]),
            Err(EventLogError::Register { at, index })
        );
    }
    assert!(matches!(
        log(1, EventKind::IPL, &vec![0; MAX_EVENT_BYTES + 1]),
        Err(EventLogError::EventTooLarge { .. })
    ));
    let many = vec![honest(0, EventKind::SEPARATOR, &[]); MAX_EVENTS + 1];
    assert_eq!(replay(&written(&many)), Err(EventLogError::TooManyEvents));
    assert!(replay(&written(&many[1..])).is_ok());
    let long = vec![honest(0, EventKind::IPL, &[0; 1024]); MAX_EVENT_LOG_BYTES / 1024];
    assert_eq!(replay(&written(&long)), Err(EventLogError::TooLarge));
    assert_eq!(replay(&header(&[SHA256])), Err(EventLogError::NoSha384));
    assert_eq!(
        replay(&header(&(0..9).map(|id| (id, 1)).collect::<Vec<_>>())),
        Err(EventLogError::TooManyAlgorithms { count: 9 })
    );
    assert!(matches!(replay(b""), Err(EventLogError::Truncated { .. })));
}

#[test]
fn a_log_that_is_cut_anywhere_is_refused_or_ends_at_an_event() {
    let events = like_ovmf(b"");
    let log = written(&events);
    let ends = (0..=events.len())
        .map(|count| written(&events[..count]).len())
        .collect::<Vec<_>>();
    for length in 0..log.len() {
        assert_eq!(
            replay(&log[..length]).is_ok(),
            ends.contains(&length),
            "cut at {length}"
        );
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    (
        0..4_u8,
        prop_oneof![
            Just(EventKind::SEPARATOR),
            Just(EventKind::IPL),
            Just(EventKind::VARIABLE_BOOT),
            any::<u32>().prop_map(EventKind)
        ]
        .prop_filter("is measured", |kind| *kind != EventKind::NO_ACTION),
        prop::array::uniform32(any::<u8>()),
        prop::collection::vec(any::<u8>(), 0..64),
    )
        .prop_map(|(register, kind, seed, data)| {
            event(register, kind, Measurement::of(&seed), &data)
        })
}

proptest! {
    #[test]
    fn a_log_replays_to_the_fold_of_its_digests(events in prop::collection::vec(any_event(), 0..40)) {
        let read = replay(&written(&events)).unwrap();
        let mut rtmr = [Measurement::ZERO; 4];
        for event in &events {
            let register = &mut rtmr[usize::from(event.register)];
            *register = register.extended(event.digest);
        }
        prop_assert_eq!(read.rtmr, rtmr);
        prop_assert_eq!(read.events, events);
    }

    #[test]
    fn a_policy_of_a_log_takes_that_log_and_no_other_order(events in prop::collection::vec(any_event(), 1..20), at in any::<prop::sample::Index>()) {
        let mut events = events;
        for event in &mut events {
            event.register = 0;
        }
        let log = proven(&events);
        let policy = EventPolicy::drafted_from(log.replay());
        prop_assert_eq!(policy.judge(&log), []);
        let at = at.index(events.len());
        let varies = policy.steps[at].varies.is_some();
        events[at].digest = Measurement::of(b"something else");
        prop_assert_eq!(policy.judge(&proven(&events)).is_empty(), varies);
    }
}

#[test]
fn random_bytes_as_a_log_never_panic() {
    bolero::check!()
        .with_iterations(2_000)
        .for_each(|bytes: &[u8]| {
            let _ = replay(bytes);
            let mut log = header(&[SHA384]);
            log.extend(bytes);
            let _ = replay(&log);
        });
}

#[test]
fn a_changed_log_is_refused_or_read_without_a_panic() {
    let log = written(&like_ovmf(b"\x01"));
    let policy = drafted();
    bolero::check!()
        .with_iterations(2_000)
        .with_type::<(u16, u8)>()
        .for_each(|(at, mask)| {
            let mut changed = log.clone();
            let at = usize::from(*at) % changed.len();
            changed[at] ^= *mask;
            if let Ok(read) = replay(&changed) {
                let [rtmr0, rtmr1, rtmr2, _] = read.rtmr;
                for event in &read.events {
                    let _ = (event.content().to_string(), event.binding());
                }
                let _ = policy.judge(&read.proven_by(&[rtmr0, rtmr1, rtmr2]).unwrap());
            }
        });
}

#[test]
fn random_data_of_every_kind_is_shown_without_a_panic() {
    bolero::check!()
        .with_iterations(2_000)
        .with_type::<(u8, Vec<u8>)>()
        .for_each(|(kind, data)| {
            let kinds = [
                EventKind::VARIABLE_BOOT,
                EventKind::FIRMWARE_BLOB2,
                EventKind::BOOT_SERVICES_APPLICATION,
                EventKind::EVENT_TAG,
                EventKind::IPL,
            ];
            let kind = kinds[usize::from(*kind) % kinds.len()];
            let shown = event(0, kind, Measurement::ZERO, data)
                .content()
                .to_string();
            assert!(!shown.chars().any(char::is_control));
        });
}
