//! The models on this machine's disk: fetched, listed, shown, verified, removed.
