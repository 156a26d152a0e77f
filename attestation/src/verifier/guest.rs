//! Stage three: is this a guest that a release vouches for, and is it shut to its host?
//!
//! Field meanings: Intel TDX Module ABI specification (348551), tables on `ATTRIBUTES` and
//! `TDREPORT_STRUCT`.

use cocoon_protocol::evidence::EvidenceBundle;
use dcap_qvl::quote::{TDAttributes, TDReport10};

use super::{Shown, Verifier};
use crate::findings::Findings;
use crate::launch::LaunchEvents;
use crate::policy::XFAM_REQUIRED;
use crate::{Check, Image, Measurement};

const ATTRIBUTE_DEBUG: u8 = 1;

impl Verifier {
    pub(super) fn guest(&self, shown: &Shown, bundle: &EvidenceBundle, findings: &mut Findings) {
        let td = &shown.td;
        attributes(shown, findings);
        self.xfam(td, findings);
        self.module(td, findings);
        self.image(td, findings);
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
        event_log(bundle, findings);
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
    /// the register that is off and not all of them.
    fn image(&self, td: &TDReport10, findings: &mut Findings) {
        let seen = [td.mr_td, td.rt_mr0, td.rt_mr1, td.rt_mr2].map(Measurement::from_bytes);
        let checks = [Check::MrTd, Check::Rtmr0, Check::Rtmr1, Check::Rtmr2];
        let agreement = |image: &&Image| {
            registers(image)
                .iter()
                .zip(&seen)
                .filter(|(wanted, seen)| wanted == seen)
                .count()
        };
        let nearest = self.policy.images.iter().max_by_key(agreement);
        for (index, (check, seen)) in checks.into_iter().zip(seen).enumerate() {
            let Some(image) = nearest else {
                findings.fail(
                    check,
                    "the policy allows no image",
                    seen.to_string(),
                    "an image",
                );
                continue;
            };
            let wanted = registers(image).get(index).copied();
            findings.require(
                check,
                wanted == Some(seen),
                (
                    &format!("as in image {:?}", image.name),
                    &format!("no allowed image; nearest is {:?}", image.name),
                ),
                seen.to_string(),
                wanted.map(|wanted| wanted.to_string()).unwrap_or_default(),
            );
        }
    }
}

fn registers(image: &Image) -> [Measurement; 4] {
    [image.mrtd, image.rtmr0, image.rtmr1, image.rtmr2]
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

/// A log that is shown is one that somebody may believe, so a wrong one is refused.
fn event_log(bundle: &EvidenceBundle, findings: &mut Findings) {
    let reason = if bundle.attached.event_log.is_empty() {
        "no event log is shown, and no image asks for one"
    } else {
        "this version cannot replay event logs"
    };
    findings.not_asked(Check::EventLog, reason);
}
