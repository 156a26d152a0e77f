//! Canonical XML 1.1 without comments, for documents as plain as RIM files.
//!
//! W3C Recommendation "Canonical XML Version 1.1", section 2. The whole document, or one element with
//! the name spaces that it inherits. What RIM files do not have is refused instead of half supported:
//! document types (and with them entities and default attributes), processing instructions, and
//! attributes of the name space `xml`, which would be the only thing in which version 1.1 differs from
//! 1.0.
//!
//! The tree that is written here is the tree that the golden values are read from, so a signature
//! cannot cover one reading of the file and the values come from another.

use std::collections::BTreeMap;

use roxmltree::{Document, Node, NodeId};

/// How deep elements may be nested.
pub const MAX_DEPTH: usize = 16;
const XML_NAMESPACE: &str = "http://www.w3.org/XML/1998/namespace";

/// What a document has that is not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    /// Deeper than a RIM file is.
    #[error("elements are nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// Something for a program to do.
    #[error("there is a processing instruction")]
    Instruction,
    /// `xml:base` and the like.
    #[error("there is an attribute of the name space xml")]
    XmlAttribute,
}

/// Prefixes and the name spaces that they stand for; the empty prefix for the default.
type Namespaces<'a> = BTreeMap<&'a str, &'a str>;

/// The canonical form of a document, without one element.
///
/// # Errors
/// What is not supported.
pub fn document(
    document: &Document<'_>,
    without: Option<NodeId>,
) -> Result<String, CanonicalError> {
    if document.root().children().any(|child| child.is_pi()) {
        return Err(CanonicalError::Instruction);
    }
    let root = document.root_element();
    let mut out = String::with_capacity(document.input_text().len());
    write(root, without, &Namespaces::new(), 0, &mut out)?;
    Ok(out)
}

/// The canonical form of one element with all name spaces that are in scope.
///
/// # Errors
/// What is not supported.
pub fn element(node: Node<'_, '_>) -> Result<String, CanonicalError> {
    // It would inherit them.
    let inherits = node
        .ancestors()
        .flat_map(|ancestor| ancestor.attributes())
        .any(|attribute| attribute.namespace() == Some(XML_NAMESPACE));
    if inherits {
        return Err(CanonicalError::XmlAttribute);
    }
    let mut out = String::new();
    write(node, None, &Namespaces::new(), 0, &mut out)?;
    Ok(out)
}

fn write<'a>(
    node: Node<'a, '_>,
    without: Option<NodeId>,
    rendered: &Namespaces<'a>,
    depth: usize,
    out: &mut String,
) -> Result<(), CanonicalError> {
    if depth >= MAX_DEPTH {
        return Err(CanonicalError::TooDeep);
    }
    let in_scope: Namespaces<'a> = node
        .namespaces()
        .map(|namespace| (namespace.name().unwrap_or_default(), namespace.uri()))
        .filter(|(prefix, uri)| *prefix != "xml" && !uri.is_empty())
        .collect();
    let name = name(node);
    out.push('<');
    out.push_str(name);
    if rendered.contains_key("") && !in_scope.contains_key("") {
        out.push_str(" xmlns=\"\"");
    }
    for (prefix, uri) in &in_scope {
        if rendered.get(prefix) != Some(uri) {
            out.push_str(if prefix.is_empty() {
                " xmlns"
            } else {
                " xmlns:"
            });
            out.push_str(prefix);
            out.push_str("=\"");
            escape_attribute(uri, out);
            out.push('"');
        }
    }
    let mut attributes: Vec<_> = node.attributes().collect();
    attributes
        .sort_by_key(|attribute| (attribute.namespace().unwrap_or_default(), attribute.name()));
    for attribute in attributes {
        if attribute.namespace() == Some(XML_NAMESPACE) {
            return Err(CanonicalError::XmlAttribute);
        }
        out.push(' ');
        out.push_str(source(node, attribute.range_qname()));
        out.push_str("=\"");
        escape_attribute(attribute.value(), out);
        out.push('"');
    }
    out.push('>');
    for child in node.children() {
        if child.is_pi() {
            return Err(CanonicalError::Instruction);
        }
        if child.is_element() && Some(child.id()) != without {
            write(child, without, &in_scope, depth.saturating_add(1), out)?;
        } else if child.is_text() {
            escape_text(child.text().unwrap_or_default(), out);
        }
    }
    out.push_str("</");
    out.push_str(name);
    out.push('>');
    Ok(())
}

/// An element's name with its prefix, as it is written in the file: the tree knows the name space but
/// not which of several prefixes for it.
fn name<'a>(node: Node<'a, '_>) -> &'a str {
    let text = source(node, node.range());
    let text = text.strip_prefix('<').unwrap_or(text);
    let end = text
        .find(|character: char| character.is_ascii_whitespace() || "/>".contains(character))
        .unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

fn source<'a>(node: Node<'a, '_>, range: std::ops::Range<usize>) -> &'a str {
    node.document().input_text().get(range).unwrap_or_default()
}

fn escape_text(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\r' => out.push_str("&#xD;"),
            other => out.push(other),
        }
    }
}

fn escape_attribute(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '"' => out.push_str("&quot;"),
            '\t' => out.push_str("&#x9;"),
            '\n' => out.push_str("&#xA;"),
            '\r' => out.push_str("&#xD;"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Made with lxml 6 (libxml2): see `vectors/canonical.py`.
    const VECTORS: &str = include_str!("vectors/canonical.json");

    #[derive(serde::Deserialize)]
    struct Vector {
        document: String,
        canonical: String,
        element: String,
        element_canonical: String,
    }

    #[test]
    fn it_writes_what_libxml2_writes() {
        let vectors: Vec<Vector> = serde_json::from_str(VECTORS).unwrap();
        assert!(vectors.len() > 10);
        for vector in vectors {
            let tree = Document::parse(&vector.document).unwrap();
            assert_eq!(
                document(&tree, None).unwrap(),
                vector.canonical,
                "{}",
                vector.document
            );
            let node = tree
                .descendants()
                .find(|node| node.tag_name().name() == vector.element)
                .unwrap();
            assert_eq!(
                element(node).unwrap(),
                vector.element_canonical,
                "{}",
                vector.document
            );
        }
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        let refused = |text: &str| document(&Document::parse(text).unwrap(), None).unwrap_err();
        assert_eq!(refused("<a><?b c?></a>"), CanonicalError::Instruction);
        assert_eq!(refused("<?b c?><a/>"), CanonicalError::Instruction);
        assert_eq!(
            refused("<a><b xml:space=\"preserve\"/></a>"),
            CanonicalError::XmlAttribute
        );
        let deep = format!("{}{}", "<a>".repeat(17), "</a>".repeat(17));
        assert_eq!(refused(&deep), CanonicalError::TooDeep);
        assert!(Document::parse("<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>").is_err());
    }
}
