//! How patient the client is, and how many servers it asks: all of it in one place.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of a [`LiteChain`](super::LiteChain). The defaults are for TON's mainnet and for a devnet alike.
#[derive(Clone, Debug)]
pub struct LiteSettings {
    /// Until TCP is open and the ADNL handshake is answered.
    pub connect_timeout: Duration,
    /// For one small answer.
    pub query_timeout: Duration,
    /// For one piece of a chain of key blocks; on mainnet that is 700 kB.
    pub proof_timeout: Duration,
    /// For a server's word what its newest block is. Slower servers are asked less.
    pub head_timeout: Duration,
    /// Once one server has named its newest block, the others have this long to name theirs.
    pub head_grace: Duration,
    /// Servers that are asked for their newest block at once. All of them must agree on what is proved.
    pub heads_asked: usize,
    /// Servers that one question goes to, one after the other, until one proves its answer.
    pub servers_tried: usize,
    /// Rounds over the servers, in all.
    pub rounds: u32,
    /// Before the second round; doubles after each.
    pub first_backoff: Duration,
    /// Servers that an external message is handed to at once.
    pub sent_to: usize,
    /// A server that is so many blocks behind is asked only when no other is left.
    pub max_lag_blocks: u32,
    /// A wrong answer weighs this long against its server.
    pub wrong_answer_pause: Duration,
    /// A late answer weighs this long.
    pub late_answer_pause: Duration,
    /// The newest block may be this old by this machine's clock. A chain that is ahead of the clock is not refused: a
    /// devnet's time can jump.
    pub max_head_age: Duration,
    /// When nobody has shown a verifiable head for this long, the head counts as unverifiable. What is definite (an
    /// unknown form, a wrong proof from every server, a fork) counts at once.
    pub unverifiable_after: Duration,
    /// Where the newest verified key block is kept between starts; nowhere if `None`.
    pub anchor_file: Option<PathBuf>,
}

impl Default for LiteSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            query_timeout: Duration::from_secs(8),
            proof_timeout: Duration::from_secs(30),
            head_timeout: Duration::from_secs(4),
            head_grace: Duration::from_millis(150),
            heads_asked: 3,
            servers_tried: 5,
            rounds: 3,
            first_backoff: Duration::from_millis(100),
            sent_to: 3,
            max_lag_blocks: 10,
            wrong_answer_pause: Duration::from_secs(300),
            late_answer_pause: Duration::from_secs(10),
            max_head_age: Duration::from_secs(600),
            unverifiable_after: Duration::from_secs(60),
            anchor_file: None,
        }
    }
}
