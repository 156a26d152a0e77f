//! The owner's log: one record for each release and each refusal.

use std::fmt;

use cocoon_protocol::ids::{Digest, PeerId};
use cocoon_protocol::units::UnixMillis;
use serde::Serialize;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The evidence was accepted; the key leaves now.
    Released,
    /// The guest has confirmed it.
    Delivered,
    /// Released, and not confirmed: the guest may have the key or not.
    NotDelivered,
    /// No key.
    Refused,
    /// Refusals of the last minute that were too many to list.
    LeftOut,
}

impl Event {
    /// As in JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Delivered => "delivered",
            Self::NotDelivered => "not_delivered",
            Self::Refused => "refused",
            Self::LeftOut => "left_out",
        }
    }
}

/// One line of the log. As JSON it is stable: fields are added, never renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    pub event: Event,
    /// Who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Whose key: digest of the plain weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Digest>,
    /// The guest's evidence, by the digest of its report data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Digest>,
    /// [`super::Refusal::label`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The factor of the verdict that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<&'static str>,
    /// In words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The machine: hexadecimal PPID of its PCK certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform_id: Option<String>,
    /// Hours since 1970 in which the guest's keys were made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Digest of the guest's configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Digest>,
    /// How many refusals were left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
}

impl Record {
    pub(super) fn of(
        now: UnixMillis,
        event: Event,
        peer: &PeerId,
        model: Digest,
        evidence: Option<Digest>,
    ) -> Self {
        Self {
            peer: Some(peer.to_string()),
            model: Some(model),
            evidence,
            ..Self::bare(now, event)
        }
    }

    pub(super) fn left_out(now: UnixMillis, count: u32) -> Self {
        Self {
            count: Some(count),
            ..Self::bare(now, Event::LeftOut)
        }
    }

    fn bare(now: UnixMillis, event: Event) -> Self {
        Self {
            at_ms: now.millis(),
            event,
            peer: None,
            model: None,
            evidence: None,
            reason: None,
            factor: None,
            detail: None,
            platform_id: None,
            epoch: None,
            config: None,
            count: None,
        }
    }
}

/// One line for people: event, peer, model by its first digits, why.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<13}", self.event.label())?;
        if let Some(count) = self.count {
            return write!(f, "{count} refusals of the last minute are not listed");
        }
        if let Some(peer) = &self.peer {
            write!(f, " peer {peer}")?;
        }
        if let Some(model) = &self.model {
            let model = model.to_string();
            write!(f, " model {}", model.get(..16).unwrap_or_default())?;
        }
        if let Some(platform) = &self.platform_id {
            write!(f, " machine {platform}")?;
        }
        match (&self.reason, &self.detail) {
            (Some(reason), Some(detail)) => write!(f, " {reason}: {detail}"),
            (Some(reason), None) => write!(f, " {reason}"),
            _ => Ok(()),
        }
    }
}
