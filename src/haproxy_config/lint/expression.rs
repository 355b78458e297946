//! Takes samples (`req.hdr(host),lower`) and texts with samples (`%[…]`) apart (HAProxy's configuration manual,
//! sections 7.3 and 8.2.6).
//!
//! What cannot be taken apart is never taken for the agent's word.

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'t> {
    /// Literal text.
    Text(&'t str),
    /// A sample: `%[sample]`.
    Sample(&'t str),
    /// A variable of the log format: `%ci`.
    Alias(&'t str),
}

/// The parts of a text, in their order.
pub(super) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        // `%%` is a percent sign.
        if let Some(after) = after.strip_prefix('%') {
            pieces.push(Piece::Text("%"));
            rest = after;
            continue;
        }
        // Flags can stand before the sample: `%{+Q}[…]`.
        let body = match after.strip_prefix('{').and_then(|flags| flags.split_once('}')) {
            Some((_, body)) => body,
            None => after,
        };
        if let Some(sample) = body.strip_prefix('[') {
            let end = closing(sample);
            pieces.push(Piece::Sample(sample.get(..end).unwrap_or(sample)));
            rest = sample.get(end + 1..).unwrap_or_default();
        } else {
            let end = body.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(body.len());
            let (name, after) = body.split_at(end);
            pieces.push(Piece::Alias(name));
            rest = after;
        }
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    pieces
}

/// The index of the bracket that ends a sample. The sample can contain brackets, parentheses and quotes.
fn closing(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut quote = None;
    for (place, c) in text.char_indices() {
        match (quote, c) {
            // Brackets in quotes are text of an argument.
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '(' | '[') => depth += 1,
            (None, ')') => depth = depth.saturating_sub(1),
            (None, ']') if depth == 0 => return place,
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// A fetch or a converter, with its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call<'t> {
    pub(super) name: &'t str,
    pub(super) args: &'t str,
}

/// The fetch of a sample and its converters, in their order. `None` if it cannot be taken apart.
pub(super) fn calls(sample: &str) -> Option<Vec<Call<'_>>> {
    let mut calls = Vec::new();
    let mut depth = 0_usize;
    let mut quote = None;
    let mut start = 0;
    for (place, c) in sample.char_indices().chain([(sample.len(), ',')]) {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => depth = depth.checked_sub(1)?,
            _ => {}
        }
        let ends = c == ',' && depth == 0 && quote.is_none();
        if !ends {
            continue;
        }
        let part = sample.get(start..place)?.trim();
        start = place + 1;
        let call = match part.split_once('(') {
            Some((name, args)) => Call { name, args: args.strip_suffix(')')? },
            None => Call { name: part, args: "" },
        };
        if call.name.is_empty() || call.name.contains(char::is_whitespace) {
            return None;
        }
        calls.push(call);
    }
    // Otherwise a parenthesis or quote is still open.
    (depth == 0 && quote.is_none() && start > sample.len()).then_some(calls)
}

/// Converters whose result is made only of their input and of what an administrator wrote.
const PURE: [&str; 39] = [
    "lower",
    "upper",
    "trim",
    "ltrim",
    "rtrim",
    "base64",
    "b64dec",
    "ub64enc",
    "ub64dec",
    "url_enc",
    "url_dec",
    "hex",
    "json",
    "json_query",
    "field",
    "word",
    "bytes",
    "length",
    "sha1",
    "sha2",
    "digest",
    "crc32",
    "crc32c",
    "xxh32",
    "xxh64",
    "xxh3",
    "ipmask",
    "regsub",
    "map",
    "map_str",
    "map_str_str",
    "host_only",
    "port_only",
    "bool",
    "not",
    "be2hex",
    "cut_crlf",
    "protobuf",
    "strip",
];

/// Whether a converter adds nothing from another source.
pub(super) fn is_pure(call: &Call<'_>) -> bool {
    // The second argument of a map is the value for keys that it lacks.
    let map = call.name.starts_with("map");
    PURE.contains(&call.name) && !(map && call.args.contains(','))
}

/// The name of the agent's variable, if a sample is that variable and nothing else.
pub(super) fn agents<'t>(sample: &'t str, prefix: &str) -> Option<&'t str> {
    let calls = calls(sample)?;
    let (first, converters) = calls.split_first()?;
    // The second argument of `var` is the value where the agent set none.
    let name = first.args.trim().strip_prefix(prefix)?;
    let plain = first.name == "var" && !name.contains(',');
    (plain && converters.iter().all(is_pure)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_taken_apart() {
        use Piece::{Alias, Sample, Text};
        for (text, want) in [
            ("a", &[Text("a")][..]),
            ("%[src]", &[Sample("src")]),
            ("%{+Q}[var(a),map(\"x]\")]b", &[Sample("var(a),map(\"x]\")"), Text("b")]),
            ("%%[src]", &[Text("%"), Text("[src]")]),
            ("%ci:%[x(a[1])]", &[Alias("ci"), Text(":"), Sample("x(a[1])")]),
            ("%[src", &[Sample("src")]),
            ("", &[]),
        ] {
            assert_eq!(pieces(text), want, "{text}");
        }
    }

    #[test]
    fn samples_are_taken_apart() {
        let names = |text: &str| -> Option<Vec<String>> {
            Some(calls(text)?.iter().map(|call| format!("{}|{}", call.name, call.args)).collect())
        };
        let some = |parts: &[&str]| Some(parts.iter().map(|part| (*part).to_owned()).collect());
        assert_eq!(names("src"), some(&["src|"]));
        assert_eq!(
            names("var(a),regsub(\"(,\",\"\"),lower"),
            some(&["var|a", "regsub|\"(,\",\"\"", "lower|"])
        );
        for wrong in ["", "a,,b", "var(a", "var(a))", "a b", "a,"] {
            assert_eq!(names(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_variable_of_the_agent_is_distinguished_from_what_only_begins_so() {
        let prefix = "txn.identity.";
        for (sample, want) in [
            ("var(txn.identity.user)", Some("user")),
            ("var(txn.identity.user),lower,map(users.map)", Some("user")),
            ("var(txn.identity.user,admin)", None),
            ("var(txn.identity.user),concat(,txn.x)", None),
            ("var(txn.identity.user),map(users.map,admin)", None),
            ("var(txn.identityx.user)", None),
            ("var(txn.other)", None),
            ("req.hdr(x)", None),
            ("str(),concat(,txn.identity.user)", None),
        ] {
            assert_eq!(agents(sample, prefix), want, "{sample}");
        }
    }
}
