//! What the swarm counts, beside libp2p's own metrics.

use libp2p::metrics::Metrics as Libp2pMetrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Something of a stranger's that was refused. The reasons are ours, so their number is fixed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusedLabels {
    /// What was refused and why.
    pub what: &'static str,
}

/// See the module's doc.
pub struct NetMetrics {
    /// libp2p's own.
    pub libp2p: Libp2pMetrics,
    /// Peers with at least one connection.
    pub peers: Gauge,
    /// Refused by a limit.
    pub refused: Family<RefusedLabels, Counter>,
    /// Turns in which the swarm stood still because the actors had not taken its notices.
    pub stalled: Counter,
}

impl NetMetrics {
    /// Registers everything.
    pub fn register(registry: &mut Registry) -> Self {
        let libp2p = Libp2pMetrics::new(registry);
        let metrics = Self {
            libp2p,
            peers: Gauge::default(),
            refused: Family::default(),
            stalled: Counter::default(),
        };
        let net = registry.sub_registry_with_prefix("cocoon_net");
        net.register(
            "peers",
            "Peers with at least one connection",
            metrics.peers.clone(),
        );
        net.register(
            "refused",
            "Requests, sessions and connections refused by a limit",
            metrics.refused.clone(),
        );
        net.register(
            "stalled",
            "Times the swarm waited for the actors to take its notices",
            metrics.stalled.clone(),
        );
        metrics
    }

    /// Counts one refusal.
    pub fn refuse(&self, what: &'static str) {
        self.refused.get_or_create(&RefusedLabels { what }).inc();
    }
}
