//! A vault's rules in whatever order things come in.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use cocoon_attestation::policy::simulated;
use cocoon_attestation::vault::{Ask, Event, Finding, Input, Output, Vault, VaultConfig};
use cocoon_attestation::{Expectation, Trust, Verdict};
use cocoon_protocol::evidence::Claims;
use cocoon_protocol::ids::Digest;
use cocoon_protocol::vault::Nonce;
use proptest::prelude::*;
use support::simulated::{honest, verifier};
use support::{claims, now, peer};

fn model() -> Digest {
    claims().model
}

fn nonce(number: u8) -> Nonce {
    Nonce::from_bytes([number; 32])
}

#[derive(Clone, Debug)]
enum Step {
    Hello(u8, u8),
    Claim(u8, u8),
    Judge(u8, bool),
    Delivered(u8),
    Lost(u8),
    Wait(u16),
}

fn any_step() -> impl Strategy<Value = Step> {
    let (peer, ask) = (1_u8..4, 0_u8..24);
    prop_oneof![
        (peer.clone(), 0_u8..12).prop_map(|(peer, nonce)| Step::Hello(peer, nonce)),
        (peer, 0_u8..12).prop_map(|(peer, nonce)| Step::Claim(peer, nonce)),
        (ask.clone(), any::<bool>()).prop_map(|(ask, good)| Step::Judge(ask, good)),
        ask.clone().prop_map(Step::Delivered),
        ask.prop_map(Step::Lost),
        (0_u16..30_000).prop_map(Step::Wait),
    ]
}

/// Verdicts on peers 1 to 3, a good one and a bad one each. Made once: a quote costs milliseconds.
fn verdicts() -> BTreeMap<u8, (Claims, Verdict, Verdict)> {
    let owner = verifier(simulated::policy());
    let beacons = support::beacons();
    let of = |number| {
        let claims = Claims {
            peer: peer(number),
            ..claims()
        };
        let bundle = honest(&claims);
        let expectation = Expectation::new(claims.peer, model(), claims.digest(), &beacons);
        let good = owner.verify(now(), &bundle, &expectation);
        let other = Expectation {
            model: Digest::ZERO,
            ..expectation
        };
        let bad = owner.verify(now(), &bundle, &other);
        assert!(good.accepted() && !bad.accepted());
        (number, (claims, good, bad))
    };
    (1..4).map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever order things come in: a nonce releases once, to its peer, on a good verdict, after a
    /// record; and each claim is answered once at most.
    #[test]
    fn a_nonce_releases_at_most_once(steps in prop::collection::vec(any_step(), 1..120)) {
        static VERDICTS: OnceLock<BTreeMap<u8, (Claims, Verdict, Verdict)>> = OnceLock::new();
        let verdicts = VERDICTS.get_or_init(verdicts);
        let mut vault = Vault::new(VaultConfig::new(Trust::Simulated, BTreeSet::from([model()])));
        let mut at = now();
        let (mut asks, mut claimed) = (0_u64, BTreeMap::<u64, (u8, u8)>::new());
        let (mut released, mut answered) = (BTreeSet::new(), BTreeSet::new());
        let mut drawn = BTreeMap::new();
        for step in steps {
            let mut good = false;
            let input = match step {
                Step::Wait(ms) => { at = at.saturating_add(u64::from(ms)); continue }
                Step::Hello(who, number) => {
                    // A caller draws fresh ones.
                    if drawn.contains_key(&number) { continue }
                    drawn.insert(number, who);
                    asks += 1;
                    Input::Hello { ask: Ask(asks), peer: peer(who), model: model(), nonce: nonce(number) }
                }
                Step::Claim(who, number) => {
                    asks += 1;
                    claimed.insert(asks, (who, number));
                    let evidence = verdicts[&who].0.digest();
                    Input::Claim {
                        ask: Ask(asks), peer: peer(who), nonce: nonce(number), model: model(), evidence,
                    }
                }
                Step::Judge(ask, accept) => {
                    let ask = u64::from(ask);
                    let Some((who, _)) = claimed.get(&ask) else { continue };
                    good = accept;
                    let (_, yes, no) = &verdicts[who];
                    let verdict = if accept { yes } else { no };
                    Input::Judged { ask: Ask(ask), finding: Finding::Verdict(Box::new(verdict.clone())) }
                }
                Step::Delivered(ask) => Input::Delivered { ask: Ask(u64::from(ask)) },
                Step::Lost(ask) => Input::Lost { ask: Ask(u64::from(ask)), reason: String::new() },
            };
            let outputs = vault.handle(at, input);
            for (index, output) in outputs.iter().enumerate() {
                match output {
                    Output::Release { ask, nonce: with, claims } => {
                        let (who, number) = claimed[&ask.0];
                        prop_assert!(good);
                        prop_assert_eq!(*with, nonce(number));
                        prop_assert_eq!(claims.peer, peer(who));
                        prop_assert_eq!(drawn.get(&number), Some(&who));
                        prop_assert!(released.insert(number), "nonce {} released twice", number);
                        let before = matches!(&outputs[index - 1],
                            Output::Record(record) if record.event == Event::Released);
                        prop_assert!(before, "released without a record");
                    }
                    Output::Reply { ask, .. } => {
                        prop_assert!(answered.insert(ask.0), "answered twice");
                    }
                    _ => {}
                }
            }
        }
    }
}
