//! One batch at a time: cut, submitted, confirmed. See the [module above](super).

use cocoon_protocol::{Digest, NanoTon, UnixMillis};

use super::{
    LedgerView, RolledBack, SendFailure, SettlerConfig, SettlerOutput, SettlerProblem, Unsettled,
};
use crate::contract::Commit;
use crate::ledger::{Batch, BatchProgress, TransactionRecord};

#[derive(Debug)]
pub(super) struct Commits {
    /// What the chain showed last that was ours; seqno 0 before the first batch.
    confirmed: LedgerView,
    open: Option<OpenBatch>,
    /// A batch was asked for and not answered yet.
    cutting: bool,
    /// A batch was confirmed and it is not known yet which vouchers that covers.
    covering: bool,
    unsettled: Unsettled,
    /// Chain time of the newest view; older ones are late answers.
    newest_view: u32,
    next_look: UnixMillis,
    next_deploy: UnixMillis,
    /// The last problem told, so that it is told once.
    told: Option<SettlerProblem>,
}

#[derive(Debug)]
struct OpenBatch {
    batch: Batch,
    attempts: u32,
    flight: Option<Flight>,
}

/// A commit that was handed to the chain, or was about to be when the process died.
#[derive(Debug)]
struct Flight {
    valid_until: u32,
    message: Option<Digest>,
    transaction: Option<TransactionRecord>,
    /// Set when the chain said it did not take it: when to try again.
    retry_at: Option<UnixMillis>,
}

impl Commits {
    pub(super) fn new(
        confirmed: Option<&Batch>,
        open: Option<Batch>,
        unsettled: Unsettled,
    ) -> Self {
        Self {
            confirmed: confirmed.map_or(
                LedgerView {
                    seqno: 0,
                    root: Digest::from_bytes([0; 32]),
                    jobs: 0,
                    total: NanoTon::ZERO,
                },
                LedgerView::from,
            ),
            open: open.map(OpenBatch::new),
            cutting: false,
            covering: false,
            unsettled,
            newest_view: 0,
            next_look: UnixMillis::from_millis(0),
            next_deploy: UnixMillis::from_millis(0),
            told: None,
        }
    }

    /// Nothing to commit and nothing under way.
    pub(super) fn is_idle(&self) -> bool {
        let under_way = self.open.is_some() || self.cutting || self.covering;
        !under_way && self.unsettled.entries == 0
    }

    /// What the confirmed batch covers is known.
    pub(super) fn on_covered(&mut self) {
        self.covering = false;
    }

    /// Whether a change of the contract is expected.
    pub(super) fn is_waiting(&self) -> bool {
        self.open.is_some()
    }

    pub(super) fn set_unsettled(&mut self, unsettled: Unsettled) {
        self.unsettled = unsettled;
    }

    pub(super) fn on_persisted(&mut self, batch: Batch, unsettled: Unsettled) {
        debug_assert!(self.open.is_none(), "one batch at a time");
        self.cutting = false;
        self.unsettled = unsettled;
        self.open = Some(OpenBatch::new(batch));
        self.next_look = UnixMillis::from_millis(0); // at once
    }

    /// Credited, and covered by no confirmed commit.
    pub(super) fn uncovered(&self) -> NanoTon {
        let open = self.open.as_ref().map_or(NanoTon::ZERO, |open| {
            open.batch.total.saturating_sub(self.confirmed.total)
        });
        self.unsettled.credited.saturating_add(open)
    }

    /// Cuts a batch when there is a reason to, and never one without entries.
    pub(super) fn cut(
        &mut self,
        config: &SettlerConfig,
        now: UnixMillis,
        commit_fee: NanoTon,
        urgent: bool,
        out: &mut Vec<SettlerOutput>,
    ) {
        let Unsettled {
            entries,
            credited,
            oldest,
        } = self.unsettled;
        // Until it is known what the last one covers, nobody can say who needs another.
        let under_way = self.open.is_some() || self.cutting || self.covering;
        if under_way || entries == 0 {
            return;
        }
        let age_ms = oldest.map_or(0, |at| now.saturating_since(at));
        let pays = credited >= commit_fee;
        let old = (age_ms >= config.batch_age_ms && pays) || age_ms >= config.anchor_age_ms;
        let big = entries >= u64::from(config.batch_entries) || credited >= config.batch_credit;
        if !(urgent || old || big) {
            return;
        }
        if let Some(seqno) = self.confirmed.seqno.checked_add(1) {
            self.cutting = true;
            out.push(SettlerOutput::PersistBatch { seqno });
        }
    }

    pub(super) fn look(&mut self, now: UnixMillis, every_ms: u64, out: &mut Vec<SettlerOutput>) {
        if now >= self.next_look {
            self.next_look = now.saturating_add(every_ms);
            out.push(SettlerOutput::LookAtLedger);
        }
    }

    /// Compares the contract with the ledger. `Ok(true)`: they agree. `Ok(false)`: a late or lagging view.
    pub(super) fn on_view(
        &mut self,
        config: &SettlerConfig,
        now: UnixMillis,
        unix: u32,
        view: Option<LedgerView>,
        out: &mut Vec<SettlerOutput>,
    ) -> Result<bool, RolledBack> {
        if unix < self.newest_view {
            return Ok(false);
        }
        self.newest_view = unix;
        let chain = view.map_or(0, |view| view.seqno);
        let open = self.open.as_ref().map(|open| LedgerView::from(&open.batch));
        if chain < self.confirmed.seqno {
            let ledger = self.confirmed.seqno;
            self.tell(SettlerProblem::ChainBehind { chain, ledger }, out);
            return Ok(false);
        }
        // Which of our own states should the chain's be?
        let ours = if chain == self.confirmed.seqno {
            self.confirmed
        } else {
            match open {
                Some(open) if open.seqno == chain => open,
                _ => {
                    let ledger = open.map_or(self.confirmed.seqno, |open| open.seqno);
                    return Err(RolledBack::ChainAhead { chain, ledger });
                }
            }
        };
        match view {
            Some(view) if chain > 0 && view != ours => {
                return Err(RolledBack::Diverged {
                    seqno: chain,
                    chain_root: view.root,
                    ledger_root: ours.root,
                });
            }
            Some(_) if chain > self.confirmed.seqno => self.confirm(ours, out),
            Some(_) => self.submit(config, now, unix, out),
            None => self.deploy(config, now, out),
        }
        Ok(true)
    }

    fn confirm(&mut self, ours: LedgerView, out: &mut Vec<SettlerOutput>) {
        let transaction = self
            .open
            .take()
            .and_then(|open| open.flight)
            .and_then(|flight| flight.transaction);
        self.confirmed = ours;
        self.told = None;
        self.covering = true;
        out.push(SettlerOutput::Committed {
            seqno: ours.seqno,
            transaction,
        });
    }

    /// The contract stands where the open batch begins: its commit has not been applied.
    fn submit(
        &mut self,
        config: &SettlerConfig,
        now: UnixMillis,
        unix: u32,
        out: &mut Vec<SettlerOutput>,
    ) {
        let Some(open) = &mut self.open else { return };
        let may = match &open.flight {
            None => true,
            // Past its validity it can no longer be applied; refused, it was never taken.
            Some(flight) => {
                unix >= flight.valid_until || flight.retry_at.is_some_and(|at| now >= at)
            }
        };
        if !may {
            return;
        }
        let view = LedgerView::from(&open.batch);
        let valid_until = unix.saturating_add(config.commit_ttl_s);
        open.attempts = open.attempts.saturating_add(1);
        open.flight = Some(Flight {
            valid_until,
            message: None,
            transaction: None,
            retry_at: None,
        });
        out.push(SettlerOutput::PersistCommitAttempt {
            seqno: view.seqno,
            valid_until,
        });
        out.push(SettlerOutput::SubmitCommit(Commit {
            ledger: config.ledger,
            seqno: view.seqno,
            valid_until,
            root: view.root,
            jobs: view.jobs,
            total: view.total,
        }));
    }

    fn deploy(&mut self, config: &SettlerConfig, now: UnixMillis, out: &mut Vec<SettlerOutput>) {
        if self.open.is_some() && now >= self.next_deploy {
            // A deployment goes through the wallet; give it as long as a commit before asking again.
            let wait_ms = u64::from(config.commit_ttl_s).saturating_mul(1_000);
            self.next_deploy = now.saturating_add(wait_ms);
            out.push(SettlerOutput::DeployLedger);
        }
    }

    pub(super) fn on_sent(
        &mut self,
        config: &SettlerConfig,
        now: UnixMillis,
        seqno: u32,
        result: Result<Digest, SendFailure>,
        out: &mut Vec<SettlerOutput>,
    ) {
        let Some(open) = &mut self.open else { return };
        let Some(flight) = &mut open.flight else {
            return;
        };
        if open.batch.seqno != seqno {
            return;
        }
        match result {
            Ok(message) => flight.message = Some(message),
            Err(SendFailure::Unknown) => {}
            Err(SendFailure::Refused { exit_code }) => {
                flight.retry_at = Some(now.saturating_add(config.refused_delay(open.attempts)));
                self.tell(SettlerProblem::CommitRefused { seqno, exit_code }, out);
            }
        }
    }

    pub(super) fn on_transaction(
        &mut self,
        config: &SettlerConfig,
        now: UnixMillis,
        message: Digest,
        success: bool,
        transaction: TransactionRecord,
    ) {
        let Some(open) = &mut self.open else { return };
        let Some(flight) = &mut open.flight else {
            return;
        };
        if flight.message != Some(message) {
            return;
        }
        if success {
            flight.transaction = Some(transaction);
        } else {
            flight.retry_at = Some(now.saturating_add(config.refused_delay(open.attempts)));
        }
    }

    fn tell(&mut self, problem: SettlerProblem, out: &mut Vec<SettlerOutput>) {
        if self.told != Some(problem) {
            self.told = Some(problem);
            out.push(SettlerOutput::Problem(problem));
        }
    }
}

impl OpenBatch {
    fn new(batch: Batch) -> Self {
        let (attempts, flight) = match batch.progress {
            BatchProgress::Submitted {
                valid_until,
                attempts,
            } => (
                attempts,
                Some(Flight {
                    valid_until,
                    message: None,
                    transaction: None,
                    retry_at: None,
                }),
            ),
            BatchProgress::Prepared | BatchProgress::Confirmed { .. } => (0, None),
        };
        Self {
            batch,
            attempts,
            flight,
        }
    }
}
