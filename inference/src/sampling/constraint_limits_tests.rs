#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
//! Constraints made by someone who wants the engine to stand still.

use super::tests::{Toy, babble, grammars, lark, list, regex, schema};
use super::*;

/// Constraints made to explode, each within [`crate::MAX_CONSTRAINT_BYTES`].
fn explosive() -> Vec<(&'static str, Constraint)> {
    let product = |all: usize, any: usize| {
        let one =
            |i: usize, j: usize| format!(r#"{{"properties":{{"p{i}x{j}":{{"type":"string"}}}}}}"#);
        let any_of = |i| format!(r#"{{"anyOf":[{}]}}"#, list(any, ",", |j| one(i, j)));
        schema(format!(r#"{{"allOf":[{}]}}"#, list(all, ",", any_of)))
    };
    let properties = |count| {
        let fields = list(count, ",", |i| format!(r#""{i}":{{}}"#));
        format!(r#"{{"type":"object","properties":{{{fields}}}}}"#)
    };
    let doubling = |each: &str| {
        let one = |i: usize| {
            format!(
                r#""a{i}":{}"#,
                each.replace("NEXT", &format!("#/$defs/a{}", i + 1))
            )
        };
        schema(format!(
            r##"{{"$ref":"#/$defs/a0","$defs":{{{},"a400":{{"type":"object"}}}}}}"##,
            list(400, ",", one)
        ))
    };
    // Names of three letters and digits, so that as many rules fit as can.
    let name = |i: usize| -> String {
        let digit = |n: usize| char::from(b"abcdefghijklmnopqrstuvwxyz0123456789"[n % 36]);
        [char::from(b"abcdefghij"[i / 1296]), digit(i / 36), digit(i)]
            .iter()
            .collect()
    };
    let chain = |upper: bool| {
        let text = list(7_200, "\n", |i| format!("{}:{}", name(i), name(i + 1)));
        let text = if upper { text.to_uppercase() } else { text };
        let (first, last) = if upper {
            ("AAA".to_owned(), name(7_200).to_uppercase())
        } else {
            (name(0), name(7_200))
        };
        lark(format!("start:{first}\n{text}\n{last}:\"x\""))
    };
    let nested =
        |open: &str, close: &str| format!("{}\"a\"{}", open.repeat(30_000), close.repeat(30_000));
    vec![
        ("repeats of repeats", regex("((a{1000}){1000}){1000}")),
        ("repeats of anything", regex("(.{1000}x){1000}")),
        ("repeats of letters", regex(r"(\p{L}{1000}\w){1000}")),
        ("an exponential automaton", regex(".*a.{30000}")),
        ("many ways to match", regex("(a|aa|aaa|b*a){500}(.*x){40}")),
        (
            "10 000 alternatives",
            regex(list(10_000, "|", |i| i.to_string())),
        ),
        ("deep groups", regex(nested("(", ")"))),
        ("12 000 classes", regex("[a-z]".repeat(12_000))),
        (
            "deep JSON",
            schema(format!(
                "{}1{}",
                r#"{"items":"#.repeat(6_000),
                "}".repeat(6_000)
            )),
        ),
        ("a reference to itself", schema(r##"{"$ref":"#"}"##)),
        (
            "a reference to itself and more",
            schema(r##"{"allOf":[{"$ref":"#"},{"type":"object"}]}"##),
        ),
        ("a product of 10^6", product(6, 10)),
        ("a product of 30^30", product(30, 30)),
        (
            "doubled conjunctions",
            doubling(r#"{"allOf":[{"$ref":"NEXT"},{"$ref":"NEXT"}]}"#),
        ),
        (
            "doubled alternatives",
            doubling(
                r#"{"anyOf":[{"items":{"$ref":"NEXT"}},{"properties":{"x":{"$ref":"NEXT"}}}]}"#,
            ),
        ),
        ("5 000 properties", schema(properties(5_000))),
        ("1 000 properties", schema(properties(1_000))),
        (
            "5 000 properties inside a grammar",
            lark(format!("start: %json {}", properties(5_000))),
        ),
        (
            "5 000 names",
            schema(format!(
                r#"{{"enum":[{}]}}"#,
                list(5_000, ",", |i| format!("\"v{i}\""))
            )),
        ),
        (
            "a long array",
            schema(r#"{"type":"array","minItems":1000000000,"items":{"type":"object"}}"#),
        ),
        (
            "a long string",
            schema(r#"{"type":"string","minLength":1000000000,"maxLength":2000000000}"#),
        ),
        (
            "a long string with a pattern",
            schema(r#"{"type":"string","minLength":1000,"pattern":"(a.*){100}"}"#),
        ),
        (
            "multiples of a large prime",
            schema(r#"{"type":"integer","multipleOf":999999937}"#),
        ),
        (
            "multiples of a small number",
            schema(r#"{"type":"number","multipleOf":0.000000001}"#),
        ),
        (
            "many overlapping names",
            schema(format!(
                r#"{{"type":"object","patternProperties":{{{}}}}}"#,
                list(500, ",", |i| format!(r#"".*{i}.*":{{}}"#))
            )),
        ),
        ("a chain of rules", chain(false)),
        ("a chain of terminals", chain(true)),
        (
            "deep brackets",
            lark(format!("start: {}", nested("[", "]"))),
        ),
        (
            "deep brackets in a terminal",
            lark(format!("start: A\nA: {}", nested("(", ")"))),
        ),
        (
            "deep JSON inside a grammar",
            lark(format!("start: %json {{\"x\":{}}}", nested("[", "]"))),
        ),
        ("ambiguous recursion", lark("start: x\nx: x x x | \"a\" | ")),
        (
            "15 000 optional rules",
            lark(format!(
                "start: {}\na: \"x\" a | \"z\"",
                "a? ".repeat(15_000)
            )),
        ),
        (
            "3 000 rules that may be empty",
            lark(format!(
                "start: {}\n{}",
                list(3_000, " ", |i| format!("r{i}")),
                list(3_000, "\n", |i| format!("r{i}:\"{i}\"?")),
            )),
        ),
        (
            "repeats of repeated rules",
            lark("start: a{1000}\na: b{1000}\nb: c{1000}\nc: \"x\" | \"y\" c"),
        ),
        (
            "many repeats",
            lark(format!(
                "start: {}\n{}",
                list(1_500, " ", |i| format!("r{i}{{0,99999}}")),
                list(1_500, "\n", |i| format!("r{i}:\"{i}\"?")),
            )),
        ),
        (
            "a long repeated terminal",
            lark("start: A\nA: \"ab\"{100000000}"),
        ),
        (
            "2 000 alike expressions",
            lark(format!(
                "start: x+\nx: {}",
                list(2_000, " | ", |i| format!("/a*{i}?/"))
            )),
        ),
        (
            "parts of a long text",
            lark(format!(
                "start: A\nA: %regex {{\"substring_chars\":\"{}\"}}",
                "ab".repeat(30_000)
            )),
        ),
    ]
}

/// Bounded is what ends: this test would take hours, gigabytes or the whole process if one limit were missing.
#[test]
fn a_grammar_that_explodes_is_an_error_or_harmless() {
    for (name, constraint) in explosive() {
        assert!(
            constraint_bytes(&constraint) <= crate::MAX_CONSTRAINT_BYTES,
            "{name}"
        );
        let start = std::time::Instant::now();
        let compiled = grammars().compile(&constraint);
        let compiling = start.elapsed();
        let outcome = compiled.and_then(|_| babble(grammars(), &Toy, &constraint, 1, 60));
        println!(
            "{name:36} {:6} ms, then {:6} ms: {outcome:?}",
            compiling.as_millis(),
            start.elapsed().as_millis()
        );
        match outcome {
            Ok(_) | Err(EngineError::Constraint { .. }) => {}
            Err(other) => panic!("{name}: {other}"),
        }
    }
}

fn constraint_bytes(constraint: &Constraint) -> usize {
    match constraint {
        Constraint::JsonObject => 0,
        Constraint::JsonSchema(text) | Constraint::Regex(text) | Constraint::Lark(text) => {
            text.len()
        }
    }
}
