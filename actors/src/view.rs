//! What a node shows of itself: status, health, receipts. Asks the actors and joins their answers.

use crate::ask::{Address, ask};
use crate::attestor::{AcceptedOf, Attestor, ListVerdicts, TcbWeather, Weather};
use crate::cashier::Cashier;
use crate::cashier::earning::WorkerBooks;
use crate::cashier::paying::{ClientBooks, FindEvidence, FindReceipt};
use crate::clock;
use crate::directory::{Directory, ListWorkers};
use crate::gateway::from_ask;
use crate::gateway_port::{
    AdminCommand, ChainServer, ChainStatus, ChannelStatus, Funds, GatewayError, LogStatus,
    MAX_ATTESTATIONS, NodeStatus, NodeView, Opening, RECEIPT_FORMAT, ReceiptDocument, ReceiptKey,
    SettlementStatus, WorkerAttestation, WorkerStanding, WorkerStatus,
};
use crate::job::client::{MAX_ATTEMPTS, attempt_id};
use crate::log_watch::{LogWatch, ViewLog};
use crate::mesh::{Mesh, ViewMesh};
use crate::metrics::{Metrics, Side, SideLabels};
use crate::settler::{Flush, Settler};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_attestation::{FactorResult, Verdict};
use cocoon_protocol::directory::{Entry, Standing};
use cocoon_protocol::receipt::SignedReceipt;
use cocoon_protocol::units::UnixMillis;
use cocoon_protocol::{EvidenceBundle, ModelTerms, NanoTon, PeerId, TonAddress};
use cocoon_settlement::chain::Chain;
use cocoon_settlement::ledger::KeptReceipt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Longest wait for the chain while a status is put together; without an answer the status says
/// nothing of the wallet.
const CHAIN_PATIENCE: Duration = Duration::from_secs(2);

/// See the module's doc.
pub struct View {
    /// This node.
    pub peer: PeerId,
    /// `worker`, `client` or `bootstrap`.
    pub role: &'static str,
    /// Network id.
    pub network: String,
    /// Version of the binary.
    pub version: &'static str,
    /// `intel` or `simulated`.
    pub trust: &'static str,
    /// When the process started.
    pub started: UnixMillis,
    /// Peers.
    pub mesh: Address<Mesh>,
    /// Workers.
    pub directory: Address<Directory>,
    /// Verdicts (not on a bootstrap node).
    pub attestor: Option<Address<Attestor>>,
    /// The log of guest images, where the policy names one.
    pub log: Option<Address<LogWatch>>,
    /// Books (not on a bootstrap node).
    pub cashier: Option<Address<Cashier>>,
    /// Settlement (workers).
    pub settler: Option<Address<Settler>>,
    /// The ledger contract (workers).
    pub ledger: Option<TonAddress>,
    /// The wallet and the chain to ask about it.
    pub wallet: Option<(TonAddress, Arc<dyn Chain>)>,
    /// What channels may lock in all (clients).
    pub locked_limit: NanoTon,
    /// Counters.
    pub metrics: Metrics,
    /// Ends the node.
    pub shutdown: CancellationToken,
}

#[async_trait::async_trait]
impl NodeView for View {
    async fn health(&self) -> Result<(), GatewayError> {
        ask(&self.mesh, ViewMesh).await.map_err(from_ask)?;
        ask(&self.directory, ListWorkers).await.map_err(from_ask)?;
        Ok(())
    }

    async fn status(&self) -> Result<NodeStatus, GatewayError> {
        let mesh = ask(&self.mesh, ViewMesh).await.map_err(from_ask)?;
        let entries = ask(&self.directory, ListWorkers).await.map_err(from_ask)?;
        let verdicts = match &self.attestor {
            Some(attestor) => ask(attestor, ListVerdicts).await.map_err(from_ask)?,
            None => BTreeMap::new(),
        };
        let weather = match &self.attestor {
            Some(attestor) => ask(attestor, Weather).await.map_err(from_ask)?,
            None => TcbWeather::default(),
        };
        let log = match &self.log {
            Some(watch) => Some(ask(watch, ViewLog).await.map_err(from_ask)?),
            None => None,
        };
        let workers = entries
            .iter()
            .map(|entry| {
                let peer = &entry.advert.peer;
                let round_trip = mesh.peers.get(peer).copied().flatten();
                WorkerStatus {
                    tcb_days_left: weather
                        .peers
                        .get(peer)
                        .or(Some(&entry.advert.tcb_expires))
                        .and_then(|until| days_left(*until)),
                    ..worker_status(entry, verdicts.get(peer), round_trip)
                }
            })
            .collect();
        let mut status = NodeStatus {
            peer: self.peer.to_string(),
            role: self.role.to_owned(),
            network: self.network.clone(),
            version: self.version.to_owned(),
            trust: self.trust.to_owned(),
            listen: mesh.listening,
            uptime_s: clock::now().saturating_since(self.started) / 1000,
            log: log.map(|log| LogStatus {
                origin: log.origin,
                entries: log.entries,
                split_view: log.split,
            }),
            tcb_days_left: weather.own.and_then(days_left),
            connected_peers: u32::try_from(mesh.peers.len()).unwrap_or(u32::MAX),
            workers,
            running_jobs: self.running_jobs(),
            ended_jobs: self.metrics.ended_jobs(),
            ..NodeStatus::default()
        };
        self.add_wallet(&mut status).await;
        self.add_books(&mut status).await?;
        Ok(status)
    }

    async fn funds(&self) -> Result<Funds, GatewayError> {
        self.gather_funds().await
    }

    async fn receipt(
        &self,
        key: ReceiptKey,
        opening: Opening,
    ) -> Result<Option<ReceiptDocument>, GatewayError> {
        // Only who pays keeps receipts to be shown; a worker's are leaves of its batches.
        let Some(cashier) = self.cashier.as_ref().filter(|_| self.settler.is_none()) else {
            return Ok(None);
        };
        let queries = match key {
            ReceiptKey::Job(job) => (0..MAX_ATTEMPTS)
                .map(|attempt| FindReceipt::Job(attempt_id(job, attempt)))
                .collect(),
            ReceiptKey::Leaf(leaf) => vec![FindReceipt::Leaf(leaf)],
        };
        let mut kept = None;
        for query in queries {
            let found = ask(cashier, query).await.map_err(from_ask)?;
            kept = kept.or(found.map_err(internal)?);
        }
        match kept {
            Some(kept) => self.document(cashier, kept, opening).await.map(Some),
            None => Ok(None),
        }
    }

    async fn attestations(
        &self,
        model: Option<&str>,
    ) -> Result<Vec<WorkerAttestation>, GatewayError> {
        let Some(attestor) = &self.attestor else {
            return Ok(Vec::new());
        };
        let entries = ask(&self.directory, ListWorkers).await.map_err(from_ask)?;
        let mut attestations = Vec::new();
        for entry in entries {
            let serves = |terms: &ModelTerms| model.is_none_or(|model| terms.id == model);
            let verified = matches!(entry.standing, Standing::Verified { .. });
            if !verified || !entry.advert.models.iter().any(serves) {
                continue;
            }
            if attestations.len() >= MAX_ATTESTATIONS {
                break;
            }
            let peer = entry.advert.peer;
            let accepted = ask(attestor, AcceptedOf(peer)).await.map_err(from_ask)?;
            // It may have gone in between.
            let Some(accepted) = accepted else { continue };
            let models = entry.advert.models.iter().map(|terms| terms.id.clone());
            attestations.push(WorkerAttestation {
                peer,
                models: models.collect(),
                bundle: accepted.bundle.clone(),
                verdict: accepted.verdict.clone(),
            });
        }
        Ok(attestations)
    }

    async fn admin(&self, command: AdminCommand) -> Result<(), GatewayError> {
        match (command, &self.settler) {
            (AdminCommand::Shutdown, _) => {
                self.shutdown.cancel();
                Ok(())
            }
            (AdminCommand::Settle, Some(settler)) => {
                let settler = settler.clone();
                // The command is accepted; that it is done shows in the status.
                tokio::spawn(async move { ask(&settler, Flush).await });
                Ok(())
            }
            (AdminCommand::Settle, None) => Err(GatewayError::BadRequest {
                field: None,
                message: "only a worker settles".to_owned(),
            }),
        }
    }
}

impl View {
    fn running_jobs(&self) -> u32 {
        let running: i64 = [Side::Client, Side::Worker]
            .into_iter()
            .map(|role| {
                self.metrics
                    .running_jobs
                    .get_or_create(&SideLabels { role })
                    .get()
            })
            .fold(0, i64::saturating_add);
        u32::try_from(running).unwrap_or(0)
    }

    async fn add_wallet(&self, status: &mut NodeStatus) {
        let Some((address, chain)) = &self.wallet else {
            return;
        };
        status.wallet = Some(address.to_string());
        if let Ok(Ok(account)) = tokio::time::timeout(CHAIN_PATIENCE, chain.account(*address)).await
        {
            status.wallet_balance_nanoton =
                Some(account.map_or(0, |account| account.balance.nano()));
        }
        // After the account was asked for: that is what shows how things stand.
        status.chain = Some(ChainStatus {
            standing: chain.standing(),
            servers: chain
                .servers()
                .into_iter()
                .map(|server| ChainServer {
                    address: server.address,
                    seqno: server.seqno,
                    latency_ms: server.latency_ms,
                    demoted: server.demoted.map(|why| why.to_string()),
                })
                .collect(),
        });
    }

    async fn add_books(&self, status: &mut NodeStatus) -> Result<(), GatewayError> {
        let Some(cashier) = &self.cashier else {
            return Ok(());
        };
        if self.settler.is_none() {
            let books = ask(cashier, ClientBooks)
                .await
                .map_err(from_ask)?
                .map_err(internal)?;
            for line in &books.channels {
                status.channels.push(ChannelStatus {
                    address: line.channel.to_string(),
                    peer: Some(line.worker.clone()),
                    deposit_nanoton: line.deposit.nano(),
                    signed_nanoton: line.signed.nano(),
                    claimed_nanoton: self.claimed(line.channel).await,
                });
            }
            return Ok(());
        }
        let books = ask(cashier, WorkerBooks)
            .await
            .map_err(from_ask)?
            .map_err(internal)?;
        for line in &books.channels {
            status.channels.push(ChannelStatus {
                address: line.channel.to_string(),
                peer: Some(line.client.clone()),
                deposit_nanoton: 0,
                signed_nanoton: line.held.nano(),
                claimed_nanoton: line.claimed.nano(),
            });
        }
        status.settlement = Some(SettlementStatus {
            ledger: self
                .ledger
                .map(|ledger| ledger.to_string())
                .unwrap_or_default(),
            confirmed_batch: books
                .batches
                .iter()
                .filter(|batch| batch.transaction.is_some() || batch.state == "confirmed")
                .map(|batch| batch.seqno)
                .max()
                .unwrap_or(0),
            pending_receipts: books.unsettled_entries,
            earned_nanoton: books.credited.nano(),
            settled_nanoton: books.claimed.nano(),
        });
        Ok(())
    }

    /// What a channel has paid, by the chain's word; 0 if the chain does not answer.
    async fn claimed(&self, channel: TonAddress) -> u64 {
        let Some((_, chain)) = &self.wallet else {
            return 0;
        };
        let look = cocoon_settlement::contract::fetch_channel(chain.as_ref(), channel);
        match tokio::time::timeout(CHAIN_PATIENCE, look).await {
            Ok(Ok(Some(state))) => state.claimed.nano(),
            _ => 0,
        }
    }

    async fn document(
        &self,
        cashier: &Address<Cashier>,
        kept: KeptReceipt,
        opening: Opening,
    ) -> Result<ReceiptDocument, GatewayError> {
        let signed = SignedReceipt::decode(&kept.receipt).map_err(internal)?;
        let receipt = signed.verify().map_err(internal)?;
        let evidence = ask(cashier, FindEvidence(receipt.evidence))
            .await
            .map_err(from_ask)?
            .map_err(internal)?;
        let beacon = evidence
            .as_ref()
            .map(|evidence| EvidenceBundle::decode(&evidence.bundle))
            .transpose()
            .map_err(internal)?
            .map(|bundle| bundle.claims.beacon.into());
        Ok(ReceiptDocument {
            format: RECEIPT_FORMAT.to_owned(),
            id: signed.leaf().to_string(),
            job: kept.job.to_string(),
            network: self.network.clone(),
            signed_receipt: STANDARD.encode(&kept.receipt),
            evidence: evidence.map(|evidence| STANDARD.encode(evidence.bundle)),
            beacon,
            salt: (opening == Opening::Open).then(|| kept.salt.reveal()),
        })
    }
}

/// Days from now, to one digit; `None` for the zero that says nothing.
fn days_left(until: UnixMillis) -> Option<f64> {
    const DAY_MS: f64 = 86_400_000.0;
    let tenths = Duration::from_millis(until.saturating_since(clock::now())).as_secs_f64()
        * 1_000.0
        / DAY_MS
        * 10.0;
    (until > UnixMillis::default()).then(|| tenths.round() / 10.0)
}

pub(crate) fn internal(error: impl ToString) -> GatewayError {
    GatewayError::Internal {
        reason: error.to_string(),
    }
}

fn worker_status(
    entry: &Entry,
    verdict: Option<&Verdict>,
    round_trip: Option<f64>,
) -> WorkerStatus {
    let (standing, verified_until_unix_ms, reason) = match &entry.standing {
        Standing::Unverified => (WorkerStanding::Unverified, None, None),
        Standing::Fetching { .. } => (WorkerStanding::Fetching, None, None),
        Standing::Verified { until } => (WorkerStanding::Verified, Some(until.millis()), None),
        Standing::Rejected { reason } => (WorkerStanding::Rejected, None, Some(reason.clone())),
    };
    let count = |counts: &dyn Fn(FactorResult) -> bool, verdict: &Verdict| {
        let factors = verdict
            .factors
            .iter()
            .filter(|factor| counts(factor.result));
        u32::try_from(factors.count()).unwrap_or(u32::MAX)
    };
    let price = entry.advert.models.first().map(|terms| terms.price);
    WorkerStatus {
        peer: entry.advert.peer.to_string(),
        models: entry
            .advert
            .models
            .iter()
            .map(|terms| terms.id.clone())
            .collect(),
        price_input_nanoton: price.map_or(0, |price| price.input.nano()),
        price_output_nanoton: price.map_or(0, |price| price.output.nano()),
        slots: entry.advert.slots,
        standing,
        verified_until_unix_ms,
        factors: verdict.map(|verdict| {
            (
                count(&|result| result == FactorResult::Pass, verdict),
                count(&|_| true, verdict),
            )
        }),
        tcb_days_left: None,
        reason,
        round_trip_ms: round_trip,
        failures: entry.failures,
    }
}
