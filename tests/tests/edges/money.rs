//! A chain that goes away.

use cocoon::local_mesh::verified_workers;
use cocoon_protocol::NanoTon;

use crate::api::ask;
use crate::mesh::{MODEL, Mesh};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_chain_a_job_ends_in_an_error_that_says_so_and_every_node_goes_on() {
    let Some(mut mesh) = Mesh::with_model().await else {
        return;
    };
    let mut worker = mesh.worker(&[]).await;
    let mut customer = mesh.client("customer", &[]).await;
    let mut newcomer = mesh.client("newcomer", &[]).await;
    for client in [&customer, &newcomer] {
        mesh.give(&client.node, NanoTon::from_nano(5 * NanoTon::PER_TON))
            .await;
        verified_workers(&client.node, 1).await.unwrap();
    }
    ask(&customer.node, MODEL, "Hello!", 8).await.unwrap();
    let channels = customer.status().await.channels;

    mesh.devnet.kill().unwrap();

    // No channel, and none can be opened.
    let error = ask(&newcomer.node, MODEL, "Hello!", 8).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (402, "payment_failed"));
    assert!(
        error.message.contains("no answer from http://"),
        "{}",
        error.message
    );
    // A channel, which the worker cannot look at.
    let error = ask(&customer.node, MODEL, "Hello!", 8).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (502, "worker_failed"));
    assert!(
        error.message.contains("no answer from http://"),
        "{}",
        error.message
    );

    for (node, after) in [
        (&mut worker, "the chain, at the worker"),
        (&mut customer, "the chain, at the customer"),
        (&mut newcomer, "the chain, at the newcomer"),
    ] {
        node.assert_alive(after).await;
    }
    let signed = |channels: &[cocoon_actors::gateway_port::ChannelStatus]| {
        channels.iter().map(|c| c.signed_nanoton).sum::<u64>()
    };
    assert_eq!(
        signed(&customer.status().await.channels),
        signed(&channels),
        "nothing was signed for nothing"
    );
}
