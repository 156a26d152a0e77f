//! A registry for people and for scripts.

use cocoon_settlement::contract::registry::{Change, RegistryState, Subject};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::{Value, json};

/// A change in words, read from what is signed.
pub(super) fn subject(subject: &Subject) -> String {
    match subject {
        Subject::Cancel(id) => format!("cancel change {id}"),
        Subject::Propose(change) => self::change(change),
    }
}

fn change(change: &Change) -> String {
    match change {
        Change::Log { origin, head } => format!(
            "log {origin} (SHA-256 of its name) has {} entries, root {}",
            head.size, head.root
        ),
        Change::Model { digest, status: 0 } => format!("model {digest} is taken off the list"),
        Change::Model { digest, status } => format!("model {digest} has status {status}"),
        Change::Parameter { id, value: None } => format!("parameter {id} is taken off the list"),
        Change::Parameter {
            id,
            value: Some(value),
        } => format!("parameter {id} is {}", value.display_data()),
        Change::Governance(governance) => {
            let keys: Vec<_> = governance
                .signers()
                .iter()
                .map(ToString::to_string)
                .collect();
            format!(
                "from now on {} of these {} decide, after {} s each time: {}",
                governance.threshold,
                keys.len(),
                governance.delay_s,
                keys.join(", ")
            )
        }
    }
}

/// For `--json`.
pub(super) fn json(state: &RegistryState) -> Value {
    let pending: Vec<_> = state
        .pending
        .iter()
        .map(|(id, one)| {
            json!({
                "id": id,
                "applies_at": one.applies_at,
                "hash": one.hash,
                "says": one.change.as_ref().map(change),
            })
        })
        .collect();
    let logs: Vec<_> = state
        .logs
        .iter()
        .map(
            |(origin, head)| json!({"origin_sha256": origin, "size": head.size, "root": head.root}),
        )
        .collect();
    let models: Vec<_> = state
        .models
        .iter()
        .map(|(digest, status)| json!({"digest": digest, "status": status}))
        .collect();
    let parameters: Vec<_> = state
        .parameters
        .iter()
        .map(|(id, value)| json!({"id": id, "value": value.display_data().to_string()}))
        .collect();
    json!({
        "registry": state.address,
        "balance": state.balance,
        "messages": state.seqno,
        "threshold": state.governance.threshold,
        "delay_s": state.governance.delay_s,
        "signers": state.governance.signers(),
        "pending": pending,
        "logs": logs,
        "models": models,
        "parameters": parameters,
    })
}

/// For a terminal. `now` is the chain's time, unix seconds.
pub(super) fn human(state: &RegistryState, now: u32) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    let governance = &state.governance;
    table.add_row(["registry", &state.address.to_string()]);
    table.add_row(["balance", &format!("{} TON", state.balance)]);
    table.add_row([
        "decide",
        &format!(
            "{} of {}, and {} h to object",
            governance.threshold,
            governance.signers().len(),
            governance.delay_s.div_euclid(3600)
        ),
    ]);
    for signer in governance.signers() {
        table.add_row(["", &signer.to_string()]);
    }
    for (origin, head) in &state.logs {
        table.add_row([
            "log",
            &format!("{origin}: {} entries, root {}", head.size, head.root),
        ]);
    }
    for (digest, status) in &state.models {
        table.add_row(["model", &format!("{digest}: {status}")]);
    }
    for (id, value) in &state.parameters {
        table.add_row(["parameter", &format!("{id}: {}", value.display_data())]);
    }
    for (id, one) in &state.pending {
        let says = one.change.as_ref().map_or_else(
            || format!("unknown to this program, hash {}", one.hash),
            change,
        );
        let when = match one.applies_at.checked_sub(now) {
            None | Some(0) => "may be applied now".to_owned(),
            Some(left) => format!("may be applied in {left} s"),
        };
        table.add_row(["waits", &format!("{id}: {says}; {when}")]);
    }
    if state.pending.is_empty() {
        table.add_row(["waits", "nothing"]);
    }
    format!("{table}\n")
}
