//! The clock: evidence names an hour and a block, and clients compare both with their own.

use super::{Finding, Look, Patient};

/// The chain's clock may be so far ahead of ours, seconds: blocks take a few to arrive, never less than none.
const MAX_AHEAD_S: u64 = 60;
/// The newest block may be so old, seconds, before either the chain stands still or our clock is fast.
const MAX_BEHIND_S: u64 = 300;
const SYNCHRONIZED: &str = "/run/systemd/timesync/synchronized";

pub(super) fn examine(patient: &Patient<'_>) -> Vec<Finding> {
    vec![synchronised(patient), beside_the_chain(patient)]
}

fn synchronised(patient: &Patient<'_>) -> Finding {
    let look = Look::at(
        "clock source",
        format!("{SYNCHRONIZED}, timedatectl"),
        "evidence of another hour is refused, and a host may set a guest's clock wrong",
    );
    if patient.place.exists(SYNCHRONIZED) {
        return look.ok("synchronised by systemd-timesyncd");
    }
    let next = "timedatectl set-ntp true, or run chrony";
    let arguments = ["show", "--property=NTPSynchronized", "--value"];
    match patient.machine.run("timedatectl", &arguments) {
        None => look.not_applicable(patient.not_live()),
        Some(Ok(ran)) if ran.said.trim() == "yes" => look.ok("synchronised"),
        Some(Ok(_)) => look.warning("not synchronised", next),
        Some(Err(_)) => look.warning("nothing here says whether it is synchronised", next),
    }
}

fn beside_the_chain(patient: &Patient<'_>) -> Finding {
    let look = Look::at(
        "clock",
        "this clock beside the chain's newest block",
        "clients take evidence only of the present hour and of recent blocks",
    );
    let Some(block) = patient
        .chain
        .and_then(|chain| chain.head.as_ref().ok())
        .map(|head| u64::from(head.unix))
    else {
        return look.not_applicable("there is no block to compare with");
    };
    let now = patient.now.seconds();
    let (ahead, behind) = (block.saturating_sub(now), now.saturating_sub(block));
    if ahead > MAX_AHEAD_S {
        return look.missing(
            format!("the chain is {ahead} s ahead of this clock"),
            "set the clock: timedatectl set-ntp true, or chronyc makestep",
        );
    }
    if behind > MAX_BEHIND_S {
        return look.warning(
            format!("the newest block is {behind} s old"),
            "set the clock if it is fast (timedatectl set-ntp true); else the chain stands still, or this is a devnet \
             whose time was moved",
        );
    }
    look.ok(match ahead {
        0 => format!("the newest block is {behind} s old"),
        _ => format!("the newest block is {ahead} s ahead"),
    })
}
