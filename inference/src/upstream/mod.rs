//! An engine that is another server on this machine, spoken to in OpenAI's protocol.
