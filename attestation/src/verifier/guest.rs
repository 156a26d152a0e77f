//! Stage three: is this a guest that a release vouches for, and is it shut to its host?
//!
//! Field meanings: Intel TDX Module ABI specification (348551), tables on `ATTRIBUTES` and
//! `TDREPORT_STRUCT`.

use cocoon_protocol::evidence::Claims;
use dcap_qvl::quote::{TDAttributes, TDReport10};

use super::{Shown, Verifier};
use crate::launch::LaunchEvents;
use crate::policy::XFAM_REQUIRED;
use crate::verdict::Findings;
use crate::{Check, Image, Measurement};

const ATTRIBUTE_DEBUG: u8 = 1;

impl Verifier {
    pub(super) fn guest(&self, shown: &Shown, claims: &Claims, findings: &mut Findings) {
        let td = &shown.td;
        attributes(shown, findings);
        self.xfam(td, findings);
        self.module(td, findings);
        self.image(td, findings);
        let wanted = LaunchEvents::claimed(claims).rtmr3();
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
        let owner_free = td.mr_owner == [0; 48] && td.mr_owner_config == [0; 48];
        findings.require(
            Check::MrOwner,
            owner_free,
            (
                "no owner is named",
                "the host named an owner, which no release does",
            ),
            format!(
                "{} {}",
                hex::encode(td.mr_owner),
                hex::encode(td.mr_owner_config)
            ),
            "zeroes",
        );
        findings.require(
            Check::MrConfigId,
            td.mr_config_id == [0; 48],
            (
                "no host configuration",
                "the host put in a configuration of its own",
            ),
            hex::encode(td.mr_config_id),
            "zeroes",
        );
    }

    fn xfam(&self, td: &TDReport10, findings: &mut Findings) {
        let xfam = u64::from_le_bytes(td.xfam);
        let allowed = self.policy.xfam_allowed;
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
        if self.policy.mrseam.is_empty() {
            findings.not_asked(
                Check::MrSeam,
                "the policy names no TDX modules; the collateral still judges the module's version",
            );
            return;
        }
        findings.require(
            Check::MrSeam,
            self.policy.mrseam.contains(&seen),
            (
                "the policy allows the TDX module",
                "the policy does not know the TDX module",
            ),
            seen.to_string(),
            self.policy
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
    let service_guest = shown
        .quote
        .report
        .as_td15()
        .is_some_and(|report| report.mr_service_td != [0; 48]);
    let bad = [
        (attributes.tud & !ATTRIBUTE_DEBUG != 0, "profiling"),
        (attributes.sec.migratable, "migration"),
        (
            attributes.sec.servtd_ext || service_guest,
            "a service guest",
        ),
        (attributes.reserved != 0, "reserved bits"),
    ]
    .into_iter()
    .filter_map(|(is_set, name)| is_set.then_some(name))
    .collect::<Vec<_>>();
    findings.require(
        Check::TdAttributes,
        bad.is_empty(),
        (
            "no profiling, migration or service guest",
            &format!("the guest has {}", bad.join(", ")),
        ),
        seen.as_str(),
        "none of profiling, migration, service guests, reserved bits",
    );
}
