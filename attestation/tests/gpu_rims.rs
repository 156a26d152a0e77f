//! Made-up RIM files: what is out of order is refused, and so is every signature of another shape.
//!
//! They were made and signed by another implementation: see `fixtures/gpu/make.py`.
#![allow(clippy::unwrap_used, clippy::string_slice)]

#[path = "support/gpu.rs"]
#[allow(dead_code, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod support;

use cocoon_attestation::gpu::manifest::ManifestError;
use cocoon_attestation::gpu::rim::{self, RimError};
use cocoon_attestation::gpu::{GpuManifest, GpuTrust};
use support::Synthetic;

#[test]
fn rims_that_are_not_in_order_are_refused() {
    let made = Synthetic::load();
    let trust = made.trust();
    let import = |name: &str, late: bool| rim::import(name, made.rim(name), &trust, made.now, late);
    assert!(import("driver", false).is_ok());
    assert!(matches!(
        import("old_driver", false),
        Err(RimError::Expired(_))
    ));
    assert!(import("old_driver", true).unwrap().signer_expired_at_import);
    assert!(matches!(import("stranger", true), Err(RimError::Chain(_))));
    assert_eq!(import("other_key", true), Err(RimError::Signature));
    assert_eq!(
        import("switch", true),
        Err(RimError::NotAGpu("SWITCH".to_owned()))
    );
    assert_eq!(
        import("odd_version", true),
        Err(RimError::Version("one".to_owned()))
    );
    for (name, what) in [
        ("other_maker", "platform"),
        ("index_twice", "an index comes twice"),
        ("high_index", "too high a one"),
        ("odd_count", "other values than it counts"),
        ("no_value", "other values than it counts"),
        ("other_size", "SHA-384"),
        ("odd_active", "neither active nor not"),
    ] {
        match import(name, true) {
            Err(RimError::Tag(why)) => assert!(why.contains(what), "{name}: {why}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(
        rim::import(
            "driver",
            made.rim("driver"),
            &GpuTrust::Nvidia,
            made.now,
            true
        )
        .is_err()
    );
    let contradiction = GpuManifest::new(vec![
        import("driver", false).unwrap(),
        import("other_driver", false).unwrap(),
    ]);
    assert!(matches!(
        contradiction,
        Err(ManifestError::Contradiction { .. })
    ));
}

#[test]
fn a_signature_of_another_shape_is_refused() {
    let made = Synthetic::load();
    let trust = made.trust();
    let good = String::from_utf8(made.rim("driver").to_vec()).unwrap();
    let import = |text: &str| rim::import("x", text.as_bytes(), &trust, made.now, false);
    assert!(import(&good).is_ok());
    let start = good.find("<ds:Signature xmlns").unwrap();
    let end = good.find("</SoftwareIdentity>").unwrap();
    let (body, signature) = (&good[..start], &good[start..end]);

    assert_eq!(
        import(&format!("{body}</SoftwareIdentity>")),
        Err(RimError::Unsigned)
    );
    // The signed tag inside of another one, as an attacker would wrap it.
    let wrapped = format!(
        "<SoftwareIdentity xmlns=\"http://standards.iso.org/iso/19770/-2/2015/schema.xsd\">{good}</SoftwareIdentity>"
    );
    assert!(matches!(import(&wrapped), Err(RimError::Shape(_))));
    let twice = format!("{body}{signature}{signature}</SoftwareIdentity>");
    assert!(matches!(import(&twice), Err(RimError::Shape(_))));
    for (from, to) in [
        ("URI=\"\"", "URI=\"#a\""),
        ("URI=\"\"", "URI=\"\" Type=\"x\""),
        ("URI=\"\"", ""),
        ("xmldsig-more#ecdsa-sha384", "xmldsig-more#hmac-sha384"),
        ("xmldsig-more#ecdsa-sha384", "xmldsig-more#ecdsa-sha256"),
        ("xmldsig-more#sha384\"", "xmldsig-more#sha224\""),
        ("#enveloped-signature", "#base64"),
        (
            "<ds:Transform Algorithm=\"http://www.w3.org/2006/12/xml-c14n11\"/>",
            "",
        ),
        (
            "<ds:Transform Algorithm=\"http://www.w3.org/2006/12/xml-c14n11\"/>",
            "<ds:Transform Algorithm=\"http://www.w3.org/TR/1999/REC-xpath-19991116\"><a/></ds:Transform>",
        ),
        ("<ds:X509Data>", "<ds:KeyName>k</ds:KeyName><ds:X509Data>"),
        ("<ds:SignatureValue>", "<ds:SignatureValue>!"),
        ("</ds:KeyInfo>", "</ds:KeyInfo><ds:Object/>"),
    ] {
        let changed = good.replacen(from, to, 1);
        assert_ne!(changed, good, "{from}");
        assert!(
            matches!(import(&changed), Err(RimError::Shape(_))),
            "{from} → {to}: {:?}",
            import(&changed)
        );
    }
    assert_eq!(
        import(&good.replacen("550.90.07", "550.90.08", 1)),
        Err(RimError::Digest)
    );
    // A changed SignedInfo whose digest is right.
    let space = good.replacen("<ds:SignedInfo>", "<ds:SignedInfo> ", 1);
    assert_eq!(import(&space), Err(RimError::Signature));
    // A comment is not part of the canonical form, and not of the values.
    let comment = good.replacen("    <ns0:Payload", "    <!-- x --><ns0:Payload", 1);
    let plain = import(&good).unwrap();
    let commented = import(&comment).unwrap();
    assert_eq!(commented.measurements, plain.measurements);
    for evil in [
        good.replacen("<SoftwareIdentity", "<!DOCTYPE a><SoftwareIdentity", 1),
        format!("<?x y?>{good}"),
        good.replacen("tagId=", "xml:lang=\"en\" tagId=", 1),
    ] {
        assert!(import(&evil).is_err());
    }
}
