//! The XML signature of a RIM file.
//!
//! W3C Recommendation "XML Signature Syntax and Processing", narrowed to the one shape that NVIDIA
//! writes: one `Signature` as a child of the root, one reference to the whole document (`URI=""`) with
//! the transforms enveloped-signature and Canonical XML 1.1, SHA-384, ECDSA with P-384. Anything else
//! is refused, so there is nothing to wrap a signature around and no key or algorithm to talk into.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest;
use roxmltree::{Document, Node};

use super::RimError;
use super::canonical;
use crate::gpu::chain::{Chain, ChainError};

const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const C14N: &str = "http://www.w3.org/2006/12/xml-c14n11";
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
const SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#sha384";
const ECDSA_SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384";

/// Checks the signature with the key of the first certificate in it.
///
/// Gives the certificates, of which nothing else is checked yet.
///
/// # Errors
/// Where the signature has another shape, or does not verify.
pub(super) fn check(document: &Document<'_>) -> Result<Chain, RimError> {
    let root = document.root_element();
    let mut signatures = root
        .descendants()
        .filter(|node| node.has_tag_name((DSIG, "Signature")));
    let signature = signatures.next().ok_or(RimError::Unsigned)?;
    if signatures.next().is_some() || signature.parent() != Some(root) {
        return Err(RimError::Shape("there is not one signature below the root"));
    }
    let [info, value, key_info] = children(signature, ["SignedInfo", "SignatureValue", "KeyInfo"])?;
    let [method, algorithm, reference] = children(
        info,
        ["CanonicalizationMethod", "SignatureMethod", "Reference"],
    )?;
    is(method, C14N)?;
    is(algorithm, ECDSA_SHA384)?;
    if reference.attribute("URI") != Some("") || reference.attributes().len() != 1 {
        return Err(RimError::Shape(
            "the signature is not over the whole document",
        ));
    }
    let [transforms, digest_method, digest_value] =
        children(reference, ["Transforms", "DigestMethod", "DigestValue"])?;
    let [enveloped, c14n] = children(transforms, ["Transform", "Transform"])?;
    is(enveloped, ENVELOPED)?;
    is(c14n, C14N)?;
    is(digest_method, SHA384)?;

    let content = canonical::document(document, Some(signature.id()))?;
    if digest::digest(&digest::SHA384, content.as_bytes()).as_ref() != base64(digest_value)? {
        return Err(RimError::Digest);
    }
    let [data] = children(key_info, ["X509Data"])?;
    let certificates = data
        .children()
        .filter(Node::is_element)
        .map(|node| {
            if node.has_tag_name((DSIG, "X509Certificate")) {
                base64(node)
            } else {
                Err(RimError::Shape(
                    "the key is not named by certificates alone",
                ))
            }
        })
        .take(cocoon_protocol::gpu::MAX_GPU_CERTIFICATES.saturating_add(1))
        .collect::<Result<Vec<_>, _>>()?;
    if certificates.is_empty() {
        return Err(RimError::Chain(ChainError::Empty));
    }
    let chain = Chain::from_der(certificates.iter().map(Vec::as_slice))?;
    let signed = canonical::element(info)?;
    if !chain
        .leaf()
        .verifies_fixed(signed.as_bytes(), &base64(value)?)
    {
        return Err(RimError::Signature);
    }
    Ok(chain)
}

/// The children of an element, which must be these and no others.
fn children<'a, 'input, const N: usize>(
    node: Node<'a, 'input>,
    names: [&str; N],
) -> Result<[Node<'a, 'input>; N], RimError> {
    let found: Vec<_> = node.children().filter(Node::is_element).collect();
    let matches = found.len() == N
        && found
            .iter()
            .zip(names)
            .all(|(child, name)| child.has_tag_name((DSIG, name)));
    found
        .try_into()
        .ok()
        .filter(|_| matches)
        .ok_or(RimError::Shape(
            "the signature has other elements than NVIDIA's",
        ))
}

/// An element that names an algorithm and says nothing more.
fn is(node: Node<'_, '_>, algorithm: &str) -> Result<(), RimError> {
    if node.attribute("Algorithm") == Some(algorithm)
        && node.attributes().len() == 1
        && !node.children().any(|child| child.is_element())
    {
        Ok(())
    } else {
        Err(RimError::Shape(
            "the signature uses other algorithms than NVIDIA's",
        ))
    }
}

fn base64(node: Node<'_, '_>) -> Result<Vec<u8>, RimError> {
    let text: String = node
        .text()
        .unwrap_or_default()
        .chars()
        .filter(|character| !character.is_ascii_whitespace())
        .collect();
    STANDARD
        .decode(text)
        .map_err(|_| RimError::Shape("a value is not base64"))
}
