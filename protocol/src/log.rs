//! The transparency log of guest images on the wire: that an image stands in it ([`ImageProof`]), and what peers
//! tell one another so that nobody is shown a log of his own ([`LogNews`], [`ConsistencyReply`]).
//!
//! A checkpoint (a signed tree head) travels as the text that rebuilders signed, a C2SP signed note. Reading it,
//! its entries and its signatures is `cocoon_attestation::log`'s work; what to believe of many, [`crate::log_heads`]'.

use crate::ids::Digest;
use crate::merkle::{self, ConsistencyProof, MAX_CONSISTENCY_STEPS, MAX_PROOF_STEPS};
use crate::proto;
use crate::proto::consistency_reply::{NotFound, Reply};
use crate::proto::log_news::News;
use crate::wire::{Wire, WireError, bytes, codec, field};

/// Most bytes of a proof that an image stands in the log.
pub const MAX_IMAGE_PROOF_BYTES: usize = 8 * 1024;
/// Most bytes of a log's entry.
pub const MAX_LOG_ENTRY_BYTES: usize = 1024;
/// Most bytes of a signed checkpoint: sixteen Ed25519 signatures under names of 128 bytes fit.
pub const MAX_CHECKPOINT_BYTES: usize = 4096;
/// Most bytes of news: two checkpoints and a consistency proof.
pub const MAX_LOG_NEWS_BYTES: usize = 12 * 1024;
/// Most bytes of a request for consistency.
pub const MAX_CONSISTENCY_REQUEST_BYTES: usize = 64;
/// Most bytes of its answer.
pub const MAX_CONSISTENCY_REPLY_BYTES: usize = 4096;

/// That an image stands in the log; checked by `cocoon_attestation::log::admit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageProof {
    /// The log's line about the image; the leaf is its [`crate::merkle::leaf_hash`].
    pub entry: Vec<u8>,
    /// Its place in the log, from 0.
    pub index: u64,
    /// Sibling hashes from the leaf upwards.
    pub path: Vec<Digest>,
    /// The signed checkpoint whose root the path leads to.
    pub checkpoint: Vec<u8>,
}

/// How many leaves a log has, and the root over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeHead {
    /// Leaves.
    pub size: u64,
    /// Root over them.
    pub root: Digest,
}

/// What is gossiped about the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogNews {
    /// A signed checkpoint.
    Head(Vec<u8>),
    /// Proof that the rebuilders signed two logs.
    SplitView(SplitView),
}

/// Two signed checkpoints that cannot both be true: of one size with two roots, or the newer one's tree does not
/// begin with the older one's. Anybody can check it, see [`crate::log_heads::is_split`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitView {
    /// The checkpoint with fewer leaves.
    pub older: Vec<u8>,
    /// The one with more, or as many.
    pub newer: Vec<u8>,
    /// With another root than `older`'s; `None` if the sizes are one.
    pub consistency: Option<Consistency>,
}

/// Asks whether a tree grew out of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsistencyRequest {
    /// Leaves of the older tree, at least 1.
    pub from: u64,
    /// Leaves of the newer tree, more.
    pub to: u64,
    /// The newer tree's root: who has another tree of that size cannot answer.
    pub root: Digest,
}

/// With which beginning a tree grew. To be compared with the beginning that one believes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consistency {
    /// The answerer's own root at size [`ConsistencyRequest::from`].
    pub older_root: Digest,
    /// The subtree hashes of [`ConsistencyProof::path`].
    pub path: Vec<Digest>,
}

/// Answers a [`ConsistencyRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsistencyReply {
    /// The proof.
    Found(Consistency),
    /// The answerer has no such trees, or other ones of these sizes.
    NotFound,
}

impl ConsistencyRequest {
    /// The answer of somebody who has these leaf hashes of the log.
    #[must_use]
    pub fn answer(&self, leaves: &[Digest]) -> ConsistencyReply {
        let found = || {
            let newer = leaves.get(..usize::try_from(self.to).ok()?)?;
            if merkle::root(newer) != self.root {
                return None;
            }
            let older = newer.get(..usize::try_from(self.from).ok()?)?;
            Some(Consistency {
                older_root: merkle::root(older),
                path: ConsistencyProof::make(self.from, newer)?.path,
            })
        };
        found().map_or(ConsistencyReply::NotFound, ConsistencyReply::Found)
    }
}

codec!(ImageProof);
codec!(LogNews);
codec!(ConsistencyRequest);
codec!(ConsistencyReply);

fn path<T: Wire>(path: &[Vec<u8>], limit: usize) -> Result<Vec<Digest>, WireError> {
    let path_field = field::<T>("path");
    path_field.at_most(path.len(), limit)?;
    path.iter().map(|step| path_field.digest(step)).collect()
}

impl Wire for ImageProof {
    const NAME: &'static str = "ImageProof";
    const MAX_BYTES: usize = MAX_IMAGE_PROOF_BYTES;
    type Proto = proto::ImageProof;

    fn to_proto(&self) -> Self::Proto {
        proto::ImageProof {
            entry: self.entry.clone(),
            index: self.index,
            path: self.path.iter().map(bytes).collect(),
            checkpoint: self.checkpoint.clone(),
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(Self {
            entry: field::<Self>("entry").bounded(proto.entry, MAX_LOG_ENTRY_BYTES)?,
            index: proto.index,
            path: path::<Self>(&proto.path, MAX_PROOF_STEPS)?,
            checkpoint: field::<Self>("checkpoint")
                .bounded(proto.checkpoint, MAX_CHECKPOINT_BYTES)?,
        })
    }
}

impl Wire for Consistency {
    const NAME: &'static str = "Consistency";
    const MAX_BYTES: usize = MAX_CONSISTENCY_REPLY_BYTES;
    type Proto = proto::Consistency;

    fn to_proto(&self) -> Self::Proto {
        proto::Consistency {
            older_root: bytes(&self.older_root),
            path: self.path.iter().map(bytes).collect(),
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(Self {
            older_root: field::<Self>("older_root").digest(&proto.older_root)?,
            path: path::<Self>(&proto.path, MAX_CONSISTENCY_STEPS)?,
        })
    }
}

impl Wire for SplitView {
    const NAME: &'static str = "SplitView";
    const MAX_BYTES: usize = MAX_LOG_NEWS_BYTES;
    type Proto = proto::SplitView;

    fn to_proto(&self) -> Self::Proto {
        proto::SplitView {
            older: self.older.clone(),
            newer: self.newer.clone(),
            consistency: self.consistency.as_ref().map(Wire::to_proto),
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(Self {
            older: field::<Self>("older").bounded(proto.older, MAX_CHECKPOINT_BYTES)?,
            newer: field::<Self>("newer").bounded(proto.newer, MAX_CHECKPOINT_BYTES)?,
            consistency: proto.consistency.map(Consistency::from_proto).transpose()?,
        })
    }
}

impl Wire for LogNews {
    const NAME: &'static str = "LogNews";
    const MAX_BYTES: usize = MAX_LOG_NEWS_BYTES;
    type Proto = proto::LogNews;

    fn to_proto(&self) -> Self::Proto {
        let news = match self {
            Self::Head(note) => News::Head(note.clone()),
            Self::SplitView(split) => News::SplitView(split.to_proto()),
        };
        proto::LogNews { news: Some(news) }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(match field::<Self>("news").required(proto.news)? {
            News::Head(note) => {
                Self::Head(field::<Self>("head").bounded(note, MAX_CHECKPOINT_BYTES)?)
            }
            News::SplitView(split) => Self::SplitView(SplitView::from_proto(split)?),
        })
    }
}

impl Wire for ConsistencyRequest {
    const NAME: &'static str = "ConsistencyRequest";
    const MAX_BYTES: usize = MAX_CONSISTENCY_REQUEST_BYTES;
    type Proto = proto::ConsistencyRequest;

    fn to_proto(&self) -> Self::Proto {
        proto::ConsistencyRequest {
            from: self.from,
            to: self.to,
            root: bytes(&self.root),
        }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        let most = i128::from(u64::MAX);
        let from = field::<Self>("from").within(proto.from, 1, most)?;
        let above = i128::from(proto.from).saturating_add(1);
        let to = field::<Self>("to").within(proto.to, above, most)?;
        let root = field::<Self>("root").digest(&proto.root)?;
        Ok(Self { from, to, root })
    }
}

impl Wire for ConsistencyReply {
    const NAME: &'static str = "ConsistencyReply";
    const MAX_BYTES: usize = MAX_CONSISTENCY_REPLY_BYTES;
    type Proto = proto::ConsistencyReply;

    fn to_proto(&self) -> Self::Proto {
        let reply = match self {
            Self::Found(consistency) => Reply::Consistency(consistency.to_proto()),
            Self::NotFound => Reply::NotFound(NotFound {}),
        };
        proto::ConsistencyReply { reply: Some(reply) }
    }

    fn from_proto(proto: Self::Proto) -> Result<Self, WireError> {
        Ok(match field::<Self>("reply").required(proto.reply)? {
            Reply::Consistency(consistency) => Self::Found(Consistency::from_proto(consistency)?),
            Reply::NotFound(NotFound {}) => Self::NotFound,
        })
    }
}

#[cfg(test)]
mod tests;
