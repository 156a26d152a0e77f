//! Empty, in place of `log4rs`: `tonlib-client` 0.26.11 names it among its dependencies and calls nothing of it.
//! The real one would bring thirteen crates more, two of them no longer maintained (`serde_yaml`, `unsafe-libyaml`).
