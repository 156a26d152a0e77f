//! The model: its file, its digest, the answers that are pinned for it, and the memory it takes.

use std::path::Path;

use cocoon_inference::canary::pins_of;
use cocoon_inference::store::{Contents, Record, Store};
use cocoon_protocol::Digest;

use super::{Finding, Look, Patient, machine};

/// Largest model that is hashed without being asked to, bytes: 8 GiB, some ten seconds.
const MAX_HASHED_BYTES: u64 = 8 << 30;

pub(super) fn examine(patient: &Patient<'_>) -> Vec<Finding> {
    let at = patient.config.model_path.as_deref();
    let file = Look::at(
        "model",
        at.map_or("model_path".to_owned(), |path| path.display().to_string()),
        "its digest is in the evidence, and clients choose by it",
    );
    let canary = Look::at(
        "canary",
        "known answers of this program, and the setting `canary`",
        "a worker whose device computes wrongly must not start, which needs answers to compare with",
    );
    if !patient.is_worker() {
        let why = "only workers serve models";
        return vec![file.not_applicable(why), canary.not_applicable(why)];
    }
    let Some(path) = at else {
        let next = "cocoon model pull, and name it with --model-path";
        return vec![file.missing("none is named", next)];
    };
    let here = patient.place.path(path);
    // A path and not a store's name, which has no slash.
    let entry =
        std::path::absolute(&here).map(|path| Store::at("").find(&path.display().to_string()));
    let entry = match entry {
        Ok(entry) => entry,
        Err(error) => {
            let next = "name the model's whole path with --model-path";
            return vec![file.missing(error.to_string(), next)];
        }
    };
    let bytes = match entry {
        Ok(entry) => entry.bytes,
        Err(error) => {
            let next = "cocoon model pull fetches a small one; name yours with --model-path";
            return vec![file.missing(error.to_string(), next)];
        }
    };
    if bytes > MAX_HASHED_BYTES && !patient.thorough {
        return vec![
            file.warning(
                format!("{} GiB, not read", bytes >> 30),
                "say --thorough to have it read and its digest compared",
            ),
            canary.not_applicable("the model's digest is not known"),
        ];
    }
    match Contents::of(&here, &mut |_| {}) {
        Err(error) => vec![file.missing(
            error.to_string(),
            "pull it again: cocoon model remove, cocoon model pull",
        )],
        Ok(contents) => vec![
            digest(file, &contents, record(&here).as_ref()),
            known(canary, contents.digest, patient.config.canary.as_deref()),
            machine::memory(patient, &contents),
        ],
    }
}

/// What was recorded when the model was pulled, if it lies in a store.
fn record(path: &Path) -> Option<Record> {
    let name = path.file_name()?.to_str()?;
    let store = Store::at(path.parent()?);
    store.get(name).ok()?.record
}

fn digest(look: Look, contents: &Contents, record: Option<&Record>) -> Finding {
    let digest = contents.digest;
    let about = format!("{}, digest {digest}", contents.architecture);
    if !contents.chat_template {
        return look.missing(
            format!("{about}, without a chat template"),
            "take an instruction-tuned variant: this one holds no conversations",
        );
    }
    match record {
        Some(record) if record.digest == digest => {
            look.ok(format!("{about}, as recorded when it was pulled"))
        }
        Some(record) => look.missing(
            format!(
                "{about}, but {} was recorded when it was pulled",
                record.digest
            ),
            "it was changed or damaged since: cocoon model remove, cocoon model pull",
        ),
        None => look.ok(format!("{about}, of which no store has a record")),
    }
}

fn known(look: Look, model: Digest, pinned: Option<&str>) -> Finding {
    if let Some(pinned) = pinned {
        return look.ok(format!("pinned as {pinned}"));
    }
    match pins_of(model).next() {
        Some(pin) => look.ok(format!("this program knows {}", pin.name)),
        None => look.warning(
            "nobody has pinned this model's answers",
            "on a machine that is in order: cocoon model canary MODEL; then set canary to what it prints",
        ),
    }
}
