//! Event logs and proofs of a log of images for the scenes.

use cocoon_attestation::event_log::{EventKind, EventPolicy, Step};
use cocoon_attestation::log::{Checkpoint, Entry, Note, NoteSigner};
use cocoon_attestation::policy::{AllowedImage, simulated};
use cocoon_attestation::{Image, Measurement};
use cocoon_protocol::log::{ImageProof, TreeHead};
use cocoon_protocol::merkle::{self, InclusionProof};

use super::source::Scene;
use crate::support;

const SHA384: u16 = 0x0c;

/// What a firmware measures into RTMR0, one letter per event: `F` flags of the platform, `S` secure
/// boot, anything else something that nobody knows.
fn event(letter: char) -> (EventKind, Measurement) {
    let kind = match letter {
        'F' | 'f' => EventKind::PLATFORM_CONFIG_FLAGS,
        _ => EventKind(0x8000_0001),
    };
    (kind, Measurement::of(letter.to_string().as_bytes()))
}

/// A log of RTMR0 as firmware writes it (TCG PC Client Platform Firmware Profile, section 10.2).
fn event_log(letters: &str) -> Vec<u8> {
    let mut data = b"Spec ID Event03\0".to_vec();
    data.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    data.extend(1_u32.to_le_bytes());
    data.extend(SHA384.to_le_bytes());
    data.extend(48_u16.to_le_bytes());
    data.push(0);
    let mut log = [1_u32.to_le_bytes(), 3_u32.to_le_bytes()].concat();
    log.extend([0; 20]);
    log.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    log.extend(data);
    for (kind, digest) in letters.chars().map(event) {
        // Measurement register 1 is RTMR0.
        for number in [1, kind.0, 1] {
            log.extend(number.to_le_bytes());
        }
        log.extend(SHA384.to_le_bytes());
        log.extend(digest.as_bytes());
        log.extend(0_u32.to_le_bytes());
    }
    log
}

fn step(name: &str, letter: char, varies: bool) -> Step {
    let (event, digest) = event(letter);
    Step {
        name: name.to_owned(),
        event,
        digests: if varies { Vec::new() } else { vec![digest] },
        varies: varies.then(|| "the host makes them".to_owned()),
        optional: false,
    }
}

impl Scene {
    /// The policy allows an image by its events: flags of any kind, then secure boot as `S`. The
    /// guest's firmware measured `measured` and hands over the log of `shown`.
    pub(crate) fn boots(&mut self, measured: &str, shown: &str) {
        let register = measured
            .chars()
            .map(event)
            .fold(Measurement::ZERO, |register, (_, digest)| {
                register.extended(digest)
            });
        let base = &mut self.report.base;
        base.rt_mr0 = *register.as_bytes();
        base.rt_mr1 = [0; 48];
        base.rt_mr2 = [0; 48];
        self.policy.images = vec![AllowedImage {
            name: "by its events".to_owned(),
            mrtd: simulated::MRTD,
            rtmr0: None,
            rtmr1: Measurement::ZERO,
            rtmr2: Measurement::ZERO,
            events: Some(EventPolicy {
                steps: vec![step("flags", 'F', true), step("secure boot", 'S', false)],
            }),
        }];
        self.attached.event_log = if shown.is_empty() {
            Vec::new()
        } else {
            event_log(shown)
        };
    }

    /// The policy lists no image but trusts a log in which the simulated one stands among others;
    /// the guest shows the proof of `image`, under a checkpoint that `signers` signed.
    pub(crate) fn logged(&mut self, image: Image, signers: &[NoteSigner]) {
        self.policy.log = Some(support::rebuilders());
        self.policy.images.clear();
        let other = Image {
            name: "another".to_owned(),
            mrtd: Measurement::of(b"another"),
            ..simulated::image()
        };
        let index = usize::from(image != other);
        let entries = [other, image].map(|image| Entry::new(image, "v1").unwrap());
        let leaves = [entries[0].leaf(), entries[1].leaf()];
        let head = TreeHead {
            size: 2,
            root: merkle::root(&leaves),
        };
        let origin = support::rebuilders().origin().to_owned();
        let mut note = Note::new(Checkpoint::new(&origin, head).unwrap().to_string()).unwrap();
        for signer in signers {
            note.add(signer.sign(note.text())).unwrap();
        }
        let index = u64::try_from(index).unwrap();
        let proof = ImageProof {
            entry: entries[usize::try_from(index).unwrap()].encode(),
            index,
            path: InclusionProof::make(index, &leaves).unwrap().path,
            checkpoint: note.to_string().into_bytes(),
        };
        self.attached.image_proof = proof.encode();
    }
}
