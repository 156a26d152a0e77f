//! A worker's log as it is published: every leaf, and what it credits, for anybody to hold against the chain.
//!
//! # Format
//! ```text
//! file   = magic ‖ ledger (33 bytes: workchain, hash) ‖ record* ‖ end
//! magic  = "cocoon/leaves/v1\n"
//! record = 0x01 ‖ channel (33) ‖ total (u64 BE) ‖ credited (u64 BE) ‖ length (u32 BE) ‖ leaf
//! end    = 0x00 ‖ number of records (u64 BE) ‖ root over all of them (32)
//! ```
//! Records stand in the order of the log; the place in the file is the index. `total` is the channel's newest voucher at
//! that entry (without one, what it had paid before), `credited` its rise since the channel's last entry. The leaf is what is hashed: the signed
//! receipt, or for an entry without one the tagged statement of [`Entry::leaf_bytes`]. Writer and reader hold one record.
//!
//! # What it reveals
//! All that receipts say: which client (a PeerId), which model, when, how many tokens at which price, on which
//! channel. Of prompts and answers only commitments, which open to nobody without the receipt's salt; the
//! salts are the clients'. Vouchers' signatures are left out: with one of them anybody could make the channel pay early.

use std::io::{Read, Write};

use cocoon_protocol::merkle::{self, Frontier};
use cocoon_protocol::{Digest, JobId, NanoTon, SignedReceipt, TonAddress};

use super::settling::for_entries;
use super::worker_records::UNRECEIPTED_TAG;
use super::{BatchProgress, Entry, LedgerError, WorkerLedger, channel_key};
use crate::store::{Store, for_each};

const MAGIC: &[u8; 17] = b"cocoon/leaves/v1\n";
const RECORD: u8 = 1;
const END: u8 = 0;
/// The longest leaf: as for a field of a record.
pub const MAX_LEAF_BYTES: u32 = 64 * 1024;

/// One published entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Where it is paid.
    pub channel: TonAddress,
    /// The channel's newest voucher at that moment; without one, what it had paid before.
    pub total: NanoTon,
    /// How far the total rose since the channel's last entry.
    pub credited: NanoTon,
    /// What is hashed.
    pub bytes: Vec<u8>,
}

/// What a leaf's bytes say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeafClaim {
    /// A signed receipt of this job, up to this total.
    Receipt {
        /// The job.
        job: JobId,
        /// The channel's total that the receipt states.
        cumulative: NanoTon,
    },
    /// Paid without a receipt.
    Unreceipted {
        /// The job.
        job: JobId,
    },
}

/// Why a file is not a worker's leaves.
#[derive(Debug, thiserror::Error)]
pub enum LeavesError {
    /// The file or the network.
    #[error("cannot read or write the leaves: {0}")]
    Io(#[from] std::io::Error),
    /// Not this format.
    #[error("not a file of published leaves, or of a newer version")]
    Magic,
    /// Cut short, or something in between that is no record.
    #[error("damaged after {0} leaves")]
    Damaged(u64),
    /// The end does not fit what came before.
    #[error("the file says {said} leaves with root {root_said}, it holds {held} with root {root}")]
    End {
        /// In the file's end.
        said: u64,
        /// See there.
        root_said: Digest,
        /// Counted.
        held: u64,
        /// Computed.
        root: Digest,
    },
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Leaf {
    /// `base`: what the channel had paid before the log knew it, which counts where there is no voucher yet.
    fn of(entry: &Entry, base: NanoTon) -> Self {
        Self {
            channel: entry.channel,
            total: entry.voucher.map_or(base, |held| held.cumulative),
            credited: entry.credited,
            bytes: entry.leaf_bytes(),
        }
    }

    /// Its hash in the tree.
    #[must_use]
    pub fn hash(&self) -> Digest {
        merkle::leaf_hash(&self.bytes)
    }

    /// What its bytes say, if they say it of this leaf: a receipt signed by the key it names, on this channel and not
    /// beyond this total; or the statement of exactly this payment. `Err`: in words, why not.
    ///
    /// # Errors
    /// Why the leaf contradicts itself.
    pub fn claim(&self) -> Result<LeafClaim, &'static str> {
        if let Some(rest) = self.bytes.strip_prefix(UNRECEIPTED_TAG) {
            let (job, rest) = rest
                .split_first_chunk::<16>()
                .ok_or("an unreceipted entry is cut short")?;
            let mut wanted = channel_key(&self.channel);
            wanted.extend_from_slice(&self.total.nano().to_be_bytes());
            wanted.extend_from_slice(&self.credited.nano().to_be_bytes());
            return if rest == wanted {
                Ok(LeafClaim::Unreceipted {
                    job: JobId::from_bytes(*job),
                })
            } else {
                Err("an unreceipted entry states another payment")
            };
        }
        let signed =
            SignedReceipt::decode(&self.bytes).map_err(|_| "a leaf is no signed receipt")?;
        let receipt = signed
            .verify()
            .map_err(|_| "a receipt is not signed by the key it names")?;
        if receipt.channel != self.channel {
            return Err("a receipt is paid on another channel");
        }
        if receipt.cumulative > self.total {
            return Err("a receipt states more than its channel's voucher");
        }
        Ok(LeafClaim::Receipt {
            job: receipt.job,
            cumulative: receipt.cumulative,
        })
    }
}

/// Writes the log up to the last confirmed batch, and says how many leaves that were.
///
/// # Errors
/// The store's failure, or the writer's.
pub fn publish<S: Store>(
    ledger: &WorkerLedger<S>,
    contract: TonAddress,
    out: &mut impl Write,
) -> Result<u64, LeavesError> {
    let mut end = 0;
    for_each(&ledger.store, &[], |batch: super::Batch| {
        if matches!(batch.progress, BatchProgress::Confirmed { .. }) {
            end = batch.jobs();
        }
        Ok::<_, LedgerError>(())
    })?;
    out.write_all(MAGIC)?;
    out.write_all(&channel_key(&contract))?;
    let mut tree = Frontier::new();
    let mut failed = None;
    for_entries(&ledger.store, 0, end, |entry| {
        let base = match entry.voucher {
            Some(_) => NanoTon::ZERO,
            None => ledger
                .channel(&entry.channel)?
                .map_or(NanoTon::ZERO, |channel| channel.base),
        };
        let leaf = Leaf::of(&entry, base);
        tree.push(leaf.hash());
        if failed.is_none() {
            failed = write_record(out, &leaf).err();
        }
        Ok(())
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    out.write_all(&[END])?;
    out.write_all(&end.to_be_bytes())?;
    out.write_all(tree.root().as_bytes())?;
    out.flush()?;
    Ok(end)
}

fn write_record(out: &mut impl Write, leaf: &Leaf) -> std::io::Result<()> {
    out.write_all(&[RECORD])?;
    out.write_all(&channel_key(&leaf.channel))?;
    out.write_all(&leaf.total.nano().to_be_bytes())?;
    out.write_all(&leaf.credited.nano().to_be_bytes())?;
    // An entry's leaf is at most a field of a record.
    let length = u32::try_from(leaf.bytes.len()).unwrap_or(u32::MAX);
    out.write_all(&length.to_be_bytes())?;
    out.write_all(&leaf.bytes)
}

/// Reads published leaves one by one.
#[derive(Debug)]
pub struct LeavesReader<R> {
    input: R,
    ledger: TonAddress,
    tree: Frontier,
    is_over: bool,
}

impl<R: Read> LeavesReader<R> {
    /// Reads the beginning.
    ///
    /// # Errors
    /// [`LeavesError::Magic`], or the reader's failure.
    pub fn new(mut input: R) -> Result<Self, LeavesError> {
        let mut magic = [0; MAGIC.len()];
        input
            .read_exact(&mut magic)
            .map_err(|_| LeavesError::Magic)?;
        if &magic != MAGIC {
            return Err(LeavesError::Magic);
        }
        let ledger = address(&mut input).map_err(|_| LeavesError::Magic)?;
        Ok(Self {
            input,
            ledger,
            tree: Frontier::new(),
            is_over: false,
        })
    }

    /// Whose leaves these are, as the file says.
    #[must_use]
    pub fn ledger(&self) -> TonAddress {
        self.ledger
    }

    /// Leaves read so far, and the tree over them.
    #[must_use]
    pub fn tree(&self) -> &Frontier {
        &self.tree
    }

    /// The next leaf; `None` at the end, which must fit.
    ///
    /// # Errors
    /// [`LeavesError::Damaged`], [`LeavesError::End`], or the reader's failure.
    pub fn next_leaf(&mut self) -> Result<Option<Leaf>, LeavesError> {
        if self.is_over {
            return Ok(None);
        }
        let damaged = LeavesError::Damaged(self.tree.size());
        let [tag] = self.fixed::<1>()?;
        match tag {
            RECORD => {
                let channel = address(&mut self.input).map_err(|_| damaged)?;
                let total = u64::from_be_bytes(self.fixed()?);
                let credited = u64::from_be_bytes(self.fixed()?);
                let length = u32::from_be_bytes(self.fixed()?);
                if length > MAX_LEAF_BYTES {
                    return Err(LeavesError::Damaged(self.tree.size()));
                }
                let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
                self.input
                    .read_exact(&mut bytes)
                    .map_err(|_| LeavesError::Damaged(self.tree.size()))?;
                let leaf = Leaf {
                    channel,
                    total: NanoTon::from_nano(total),
                    credited: NanoTon::from_nano(credited),
                    bytes,
                };
                self.tree.push(leaf.hash());
                Ok(Some(leaf))
            }
            END => {
                let said = u64::from_be_bytes(self.fixed()?);
                let root_said = Digest::from_bytes(self.fixed()?);
                let (held, root) = (self.tree.size(), self.tree.root());
                self.is_over = true;
                if (said, root_said) == (held, root) {
                    Ok(None)
                } else {
                    Err(LeavesError::End {
                        said,
                        root_said,
                        held,
                        root,
                    })
                }
            }
            _ => Err(damaged),
        }
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], LeavesError> {
        let mut bytes = [0; N];
        self.input
            .read_exact(&mut bytes)
            .map_err(|_| LeavesError::Damaged(self.tree.size()))?;
        Ok(bytes)
    }
}

fn address(input: &mut impl Read) -> std::io::Result<TonAddress> {
    let mut workchain = [0; 1];
    input.read_exact(&mut workchain)?;
    let mut hash = [0; 32];
    input.read_exact(&mut hash)?;
    Ok(TonAddress {
        workchain: i8::from_be_bytes(workchain),
        hash,
    })
}
