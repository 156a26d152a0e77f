//! Stage three: is this a guest that a release vouches for, and is it shut to its host?
//!
//! Field meanings: Intel TDX Module ABI specification (348551), tables on `ATTRIBUTES` and
//! `TDREPORT_STRUCT`.

use cocoon_protocol::evidence::EvidenceBundle;
use dcap_qvl::quote::{TDAttributes, TDReport10};

use super::attached::event_log;
use super::{Shown, Verifier};
use crate::event_log::{EventPolicy, ProvenLog};
use crate::findings::Findings;
use crate::launch::LaunchEvents;
use crate::policy::{AllowedImage, XFAM_REQUIRED};
use crate::{Check, Measurement};

const ATTRIBUTE_DEBUG: u8 = 1;

impl Verifier {
    pub(super) fn guest(
        &self,
        shown: &Shown,
        bundle: &EvidenceBundle,
        logged: Option<&AllowedImage>,
        findings: &mut Findings,
    ) {
        let td = &shown.td;
        attributes(shown, findings);
        self.xfam(td, findings);
        self.module(td, findings);
        self.image(td, bundle, logged, findings);
        let wanted = LaunchEvents::claimed(&bundle.claims).rtmr3();
        findings.require(
            Check::Rtmr3,
            *wanted.as_bytes() == td.rt_mr3,
            (
                "RTMR3 holds the claimed model, configuration and GPU",
                "RTMR3 holds another launch than the claimed one",
            ),
            hex::encode(td.rt_mr3),
            wanted.to_string(),
        );
        for (check, field, reasons) in [
            (
                Check::MrOwner,
                &td.mr_owner,
                (
                    "no owner is named",
                    "the host named an owner, which no release does",
                ),
            ),
            (
                Check::MrOwnerConfig,
                &td.mr_owner_config,
                (
                    "no owner's configuration is named",
                    "the host named an owner's configuration, which no release does",
                ),
            ),
            (
                Check::MrConfigId,
                &td.mr_config_id,
                (
                    "no host configuration",
                    "the host put in a configuration of its own",
                ),
            ),
        ] {
            let seen = hex::encode(field);
            findings.require(check, *field == [0; 48], reasons, seen, "zeroes");
        }
    }

    fn xfam(&self, td: &TDReport10, findings: &mut Findings) {
        let xfam = u64::from_le_bytes(td.xfam);
        let allowed = self.policy.guest.xfam_allowed;
        findings.require(
            Check::Xfam,
            xfam & !allowed == 0 && xfam & XFAM_REQUIRED == XFAM_REQUIRED,
            (
                "the guest uses allowed processor state",
                "the guest uses processor state that the policy does not allow, or lacks the basics",
            ),
            format!("{xfam:#x}"),
            format!("within {allowed:#x} and including {XFAM_REQUIRED:#x}"),
        );
    }

    fn module(&self, td: &TDReport10, findings: &mut Findings) {
        let seen = Measurement::from_bytes(td.mr_seam);
        if self.policy.guest.mrseam.is_empty() {
            findings.not_asked(
                Check::MrSeam,
                "the policy names no TDX modules; the collateral still judges the module's version",
            );
            return;
        }
        findings.require(
            Check::MrSeam,
            self.policy.guest.mrseam.contains(&seen),
            (
                "the policy allows the TDX module",
                "the policy does not know the TDX module",
            ),
            seen.to_string(),
            self.policy
                .guest
                .mrseam
                .iter()
                .map(Measurement::to_string)
                .collect::<Vec<_>>()
                .join(" or "),
        );
    }

    /// Compares with the allowed image that agrees in most registers, so that the verdict names
    /// the register that is off and not all of them. An image that the log admits is as good as
    /// one that the policy lists.
    fn image(
        &self,
        td: &TDReport10,
        bundle: &EvidenceBundle,
        logged: Option<&AllowedImage>,
        findings: &mut Findings,
    ) {
        let seen = [td.mr_td, td.rt_mr0, td.rt_mr1, td.rt_mr2].map(Measurement::from_bytes);
        let [mrtd, rtmr0, rtmr1, rtmr2] = seen;
        let nearest = self.policy.images.iter().chain(logged).max_by_key(|image| {
            let agrees = [
                image.mrtd == mrtd,
                image.rtmr1 == rtmr1,
                image.rtmr2 == rtmr2,
                image.rtmr0.is_none_or(|wanted| wanted == rtmr0),
            ];
            agrees.into_iter().filter(|agrees| *agrees).count()
        });
        let events = nearest.and_then(|image| image.events.as_ref());
        let log = event_log(bundle, td, events.is_some(), findings);
        let Some(image) = nearest else {
            for check in [Check::MrTd, Check::Rtmr0, Check::Rtmr1, Check::Rtmr2] {
                findings.fail(
                    check,
                    "the policy lists no image, and the log admits none",
                    "",
                    "an image",
                );
            }
            return;
        };
        let as_in = format!("as in image {:?}", image.name);
        let not_as_in = format!("no allowed image; nearest is {:?}", image.name);
        for (check, seen, wanted) in [
            (Check::MrTd, mrtd, Some(image.mrtd)),
            (Check::Rtmr0, rtmr0, image.rtmr0),
            (Check::Rtmr1, rtmr1, Some(image.rtmr1)),
            (Check::Rtmr2, rtmr2, Some(image.rtmr2)),
        ] {
            let Some(wanted) = wanted else {
                continue;
            };
            findings.require(
                check,
                wanted == seen,
                (&as_in, &not_as_in),
                seen.to_string(),
                wanted.to_string(),
            );
        }
        if let Some(policy) = events {
            rtmr0_by_events(policy, log.as_ref(), &image.name, findings);
        }
    }
}

/// RTMR0 is right if every event that was measured into it is.
fn rtmr0_by_events(
    policy: &EventPolicy,
    log: Option<&ProvenLog>,
    image: &str,
    findings: &mut Findings,
) {
    let Some(log) = log else {
        let reason = "no event log that replays says what was measured";
        findings.not_reached(Check::Rtmr0, reason);
        return;
    };
    let wrong = policy.judge(log);
    match wrong.first() {
        None => findings.pass(
            Check::Rtmr0,
            format!("all its events are those of image {image:?}"),
            format!("{} events", log.replay().of_register(0).count()),
        ),
        Some(first) => findings.fail(
            Check::Rtmr0,
            first.to_string(),
            format!("{} event(s) that are not allowed", wrong.len()),
            format!("the events of image {image:?}"),
        ),
    }
}

fn attributes(shown: &Shown, findings: &mut Findings) {
    let raw = shown.td.td_attributes;
    let seen = format!("{:#018x}", u64::from_le_bytes(raw));
    let Ok(attributes) = TDAttributes::parse(raw) else {
        findings.fail(
            Check::TdAttributes,
            "the attributes cannot be read",
            seen,
            "attributes",
        );
        return;
    };
    findings.require(
        Check::Debug,
        attributes.tud & ATTRIBUTE_DEBUG == 0,
        (
            "the guest is not under debug",
            "the guest is under debug: its host reads its memory",
        ),
        seen.as_str(),
        "bit 0 clear",
    );
    findings.require(
        Check::SeptVeDisable,
        attributes.sec.sept_ve_disable,
        (
            "the host cannot inject page faults for the guest to handle",
            "the host can take pages away and have the guest handle the fault",
        ),
        seen.as_str(),
        "bit 28 set",
    );
    let bad = [
        (attributes.tud & !ATTRIBUTE_DEBUG != 0, "profiling"),
        (attributes.reserved != 0, "reserved bits"),
    ]
    .into_iter()
    .filter_map(|(is_set, name)| is_set.then_some(name))
    .collect::<Vec<_>>();
    findings.require(
        Check::TdAttributes,
        bad.is_empty(),
        (
            "no profiling and no reserved bits",
            &format!("the guest has {}", bad.join(" and ")),
        ),
        seen.as_str(),
        "bits 1 to 7 and all reserved bits clear",
    );
    findings.require(
        Check::Migratable,
        !attributes.sec.migratable,
        (
            "the host cannot move the guest to another machine",
            "the host can have the guest moved to another machine",
        ),
        seen.as_str(),
        "bit 29 clear",
    );
    let bound = service_guests(shown);
    findings.require(
        Check::ServiceTd,
        !attributes.sec.servtd_ext && bound.is_none(),
        (
            "no service guest is bound",
            "a service guest may read or move this one",
        ),
        bound.map_or(seen, hex::encode),
        "bit 17 clear and no hash of a service guest",
    );
}

/// A hash of bound service guests, in the fields that reports of TD 1.5 and later have for it.
fn service_guests(shown: &Shown) -> Option<[u8; 48]> {
    let report = &shown.quote.report;
    let later = report
        .as_td15_ex()
        .map(|report| [report.init_service_td_hash, report.cur_service_td_hash]);
    report
        .as_td15()
        .map(|report| report.mr_service_td)
        .into_iter()
        .chain(later.into_iter().flatten())
        .find(|hash| *hash != [0; 48])
}
