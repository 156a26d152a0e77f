//! One table: whoever made the evidence, whichever root it is judged under, and each single thing
//! that can be wrong with it. In every cell the factor that should see the defect fails; under the
//! right root it alone does.
//!
//! The columns of the root: the *right* one; the *wrong* one, which is Intel's for simulated evidence
//! and the reverse; and for [`Source::Forged`], whose root no verifier has, both of them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod matrix {
    pub(crate) mod attached;
    pub(crate) mod defects;
    pub(crate) mod source;
    pub(crate) mod touch;
}
mod support;

use std::collections::BTreeSet;

use cocoon_attestation::{Check, Trust, Verdict};
use matrix::defects::{Change, Defect, all};
use matrix::source::{Scene, Source};

fn failed(verdict: &Verdict) -> BTreeSet<Check> {
    verdict
        .failures()
        .map(|factor| factor.name.parse().unwrap())
        .collect()
}

/// The scene with the defect, judged. `None`: nobody can do that to this evidence, such as change
/// what Intel's hardware has measured.
fn judged(source: Source, trust: Trust, defect: &Defect, everything: bool) -> Option<Verdict> {
    let mut scene = Scene::new(source);
    match defect.change {
        Change::Made(change) if source.is_made() => change(&mut scene),
        Change::Made15(change) if source.is_made() && source.is_td15() => change(&mut scene),
        Change::Made(_) | Change::Made15(_) => return None,
        Change::Demanded(change) => change(&mut scene),
        Change::Shown(_) | Change::Told(_) => {}
    }
    let mut bundle = scene.bundle();
    if let Change::Shown(change) = defect.change {
        change(&mut bundle);
    }
    let mut told = scene.told(&bundle);
    if let Change::Told(change) = defect.change {
        change(&mut told);
    }
    Some(scene.judge(trust, &bundle, &told, everything))
}

fn without_defect(source: Source, trust: Trust, everything: bool) -> Verdict {
    let scene = Scene::new(source);
    let bundle = scene.bundle();
    scene.judge(trust, &bundle, &scene.told(&bundle), everything)
}

#[test]
fn without_a_defect_simulated_workers_are_accepted_under_their_root_and_nobody_under_another() {
    for source in Source::ALL {
        for trust in [Trust::Intel, Trust::Simulated] {
            let verdict = without_defect(source, trust, true);
            // Intel's samples bind other projects' claims and images, so they are no workers of ours.
            let taken = source.is_made() && source.right_root() == Some(trust);
            assert_eq!(verdict.accepted(), taken, "{source:?} {trust}\n{verdict}");
            let pinned = verdict.factor(Check::RootPinned).unwrap().result;
            let right = source.right_root() == Some(trust);
            assert_eq!(
                pinned == cocoon_attestation::FactorResult::Pass,
                right,
                "{source:?} {trust}\n{verdict}"
            );
        }
    }
}

#[test]
fn under_the_right_root_each_defect_is_seen_by_its_factor_alone() {
    let mut cells = 0;
    for source in Source::ALL {
        let Some(trust) = source.right_root() else {
            continue;
        };
        // A sample fails in our claims and images before anything else is looked at, so there the
        // verifier has to go on; what is compared is what the defect adds.
        let everything = !source.is_made();
        let before = failed(&without_defect(source, trust, everything));
        for defect in all() {
            let Some(verdict) = judged(source, trust, &defect, everything) else {
                continue;
            };
            let cell = format!("{source:?}, {trust} root, {}\n{verdict}", defect.name);
            assert!(!verdict.accepted(), "{cell}");
            let failed = failed(&verdict);
            assert!(failed.contains(&defect.seen_by), "{cell}");
            let mut added: BTreeSet<_> = failed.difference(&before).copied().collect();
            added.remove(&defect.seen_by);
            if everything {
                // The library does not take such collateral either, and a GPU that is claimed behind
                // a sample's back has not been shown.
                added.remove(&Check::SignatureChain);
                added.remove(&Check::GpuEvidence);
            }
            assert!(added.is_empty(), "also {added:?}: {cell}");
            cells += 1;
        }
    }
    assert!(cells > 200, "only {cells} cells");
}

#[test]
fn under_a_wrong_root_no_defect_helps() {
    let mut cells = 0;
    for source in Source::ALL {
        for trust in [Trust::Intel, Trust::Simulated] {
            if source.right_root() == Some(trust) {
                continue;
            }
            for defect in all() {
                let Some(verdict) = judged(source, trust, &defect, true) else {
                    continue;
                };
                let cell = format!("{source:?}, {trust} root, {}\n{verdict}", defect.name);
                assert!(!verdict.accepted(), "{cell}");
                let failed = failed(&verdict);
                // Where there is no quote to read there is no root to compare.
                let unread = [Check::QuoteSize, Check::QuoteStructure].contains(&defect.seen_by);
                assert!(unread || failed.contains(&Check::RootPinned), "{cell}");
                // What can be seen without signatures is seen under any root.
                if defect.seen_by < Check::RootPinned {
                    assert!(failed.contains(&defect.seen_by), "{cell}");
                }
                cells += 1;
            }
        }
    }
    assert!(cells > 300, "only {cells} cells");
}

#[test]
fn every_factor_that_software_can_break_is_broken_by_some_defect() {
    let broken: BTreeSet<_> = all().iter().map(|defect| defect.seen_by).collect();
    let unbroken: Vec<_> = Check::ALL
        .iter()
        .filter(|check| !broken.contains(check))
        .map(|check| check.name())
        .collect();
    // By the roots above, and by the census in `admission.rs`.
    assert_eq!(unbroken, ["root_pinned", "platform_label", "gpu_unique"]);
}
