//! The conditions of `.if` and `.elif` (HAProxy's configuration manual, section 2.4): reads them, and chooses the
//! outcomes that are worth judging.
//!
//! [`outcomes`] and [`reaching`] bound the work: two outcomes for each condition would be 2^n variants of a file.

use std::collections::BTreeSet;

/// Up to this many conditions over rules, every combination is tried.
const MAX_COMBINED: usize = 6;
/// With more conditions over rules, this many of them are tried, each alone and in pairs.
pub(super) const MAX_SINGLE: usize = 16;
/// How deep parentheses may be nested.
const MAX_DEPTH: usize = 16;

/// An expression over atoms, such as `defined(NAME)` and `version_atleast(3.2)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Constant(bool),
    /// An atom, by its index.
    Atom(usize),
    Not(Box<Test>),
    And(Vec<Test>),
    Or(Vec<Test>),
}

impl Test {
    /// Reads a condition. `atom` says what an atom stands for. A text that is not an expression is taken as one atom.
    pub(super) fn read(text: &str, atom: &mut dyn FnMut(&str) -> Test) -> Self {
        let tokens = tokens(text);
        let mut parser = Parser { tokens: &tokens, next: 0 };
        // Checked before it is parsed, so that no atom is noted for a text that is not an expression.
        if parser.is_sound(0) && parser.next == tokens.len() {
            parser.next = 0;
            return parser.any(atom);
        }
        atom(text)
    }

    /// Whether the expression holds where `holds` says which atoms do.
    pub(super) fn holds(&self, holds: &dyn Fn(usize) -> bool) -> bool {
        match self {
            Self::Constant(value) => *value,
            Self::Atom(number) => holds(*number),
            Self::Not(test) => !test.holds(holds),
            Self::And(tests) => tests.iter().all(|test| test.holds(holds)),
            Self::Or(tests) => tests.iter().any(|test| test.holds(holds)),
        }
    }

    /// Adds the atoms of the expression to a set.
    pub(super) fn atoms(&self, into: &mut BTreeSet<usize>) {
        match self {
            Self::Constant(_) => {}
            Self::Atom(number) => {
                into.insert(*number);
            }
            Self::Not(test) => test.atoms(into),
            Self::And(tests) | Self::Or(tests) => {
                for test in tests {
                    test.atoms(into);
                }
            }
        }
    }
}

fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    let mut atom = String::new();
    // Parentheses after a name enclose its arguments, which belong to the atom.
    let mut depth = 0_usize;
    while let Some(c) = chars.next() {
        let operator = match c {
            '(' if !atom.is_empty() || depth > 0 => {
                depth += 1;
                None
            }
            ')' if depth > 0 => {
                depth -= 1;
                None
            }
            _ if depth > 0 => None,
            '(' | ')' | '!' => Some(c.to_string()),
            '&' | '|' if chars.next_if_eq(&c).is_some() => Some(format!("{c}{c}")),
            c if c.is_whitespace() => Some(String::new()),
            _ => None,
        };
        match operator {
            None => atom.push(c),
            Some(operator) => {
                tokens.extend(
                    [std::mem::take(&mut atom), operator].into_iter().filter(|t| !t.is_empty()),
                );
            }
        }
    }
    tokens.extend(Some(atom).filter(|atom| !atom.is_empty()));
    tokens
}

struct Parser<'t> {
    tokens: &'t [String],
    next: usize,
}

impl Parser<'_> {
    fn is(&mut self, token: &str) -> bool {
        let is = self.tokens.get(self.next).is_some_and(|next| next == token);
        self.next += usize::from(is);
        is
    }

    /// Whether an expression follows. Moves behind it.
    fn is_sound(&mut self, depth: usize) -> bool {
        if depth > MAX_DEPTH {
            return false;
        }
        loop {
            while self.is("!") {}
            if self.is("(") {
                if !self.is_sound(depth + 1) || !self.is(")") {
                    return false;
                }
            } else {
                match self.tokens.get(self.next).map(String::as_str) {
                    None | Some(")" | "&&" | "||") => return false,
                    Some(_) => self.next += 1,
                }
            }
            if !self.is("&&") && !self.is("||") {
                return true;
            }
        }
    }

    fn any(&mut self, atom: &mut dyn FnMut(&str) -> Test) -> Test {
        let mut tests = vec![self.all(atom)];
        while self.is("||") {
            tests.push(self.all(atom));
        }
        one_or(tests, Test::Or)
    }

    fn all(&mut self, atom: &mut dyn FnMut(&str) -> Test) -> Test {
        let mut tests = vec![self.one(atom)];
        while self.is("&&") {
            tests.push(self.one(atom));
        }
        one_or(tests, Test::And)
    }

    fn one(&mut self, atom: &mut dyn FnMut(&str) -> Test) -> Test {
        let mut negated = false;
        while self.is("!") {
            negated = !negated;
        }
        let test = if self.is("(") {
            let test = self.any(atom);
            self.is(")");
            test
        } else {
            let text = self.tokens.get(self.next).map_or("", String::as_str);
            self.next += 1;
            atom(text)
        };
        if negated { Test::Not(Box::new(test)) } else { test }
    }
}

fn one_or(mut tests: Vec<Test>, several: fn(Vec<Test>) -> Test) -> Test {
    if tests.len() == 1 {
        return tests.pop().unwrap_or(Test::Constant(false));
    }
    several(tests)
}

/// The outcomes that are tried, one boolean for each atom. `atoms` has their texts, `rules` the indices of those that
/// decide about rules and routes: of a few all combinations are tried, of many each pair. The other atoms are all false
/// or all true. The caller adds outcomes for branches that none of these takes ([`reaching`]).
pub(super) fn outcomes(atoms: &[String], rules: &BTreeSet<usize>) -> BTreeSet<Vec<bool>> {
    let count = atoms.len();
    let mut all = BTreeSet::new();
    let chosen: Vec<usize> = rules.iter().copied().collect();
    if chosen.len() <= MAX_COMBINED {
        for bits in 0..1_u32 << chosen.len() {
            // The other atoms decide about single lines only: they hold in half of the outcomes.
            let mut outcome = vec![bits & 1 == 1; count];
            for (place, number) in chosen.iter().enumerate() {
                set(&mut outcome, *number, bits >> place & 1 == 1);
            }
            all.insert(outcome);
        }
    } else {
        // All combinations would be too many. Two conditions that matter together are found by the pairs.
        let few: Vec<_> = chosen.iter().copied().take(MAX_SINGLE).collect();
        for (place, one) in few.iter().enumerate() {
            for other in few.iter().skip(place + 1) {
                for (usual, first, second) in [
                    (false, true, true),
                    (true, false, false),
                    (false, true, false),
                    (true, true, false),
                ] {
                    let mut outcome = vec![usual; count];
                    set(&mut outcome, *one, first);
                    set(&mut outcome, *other, second);
                    all.insert(outcome);
                }
            }
        }
    }
    for usual in [false, true] {
        all.insert(vec![usual; count]);
    }
    all.retain(|outcome| is_possible(atoms, outcome));
    all
}

/// An outcome in which all these tests hold, with as few atoms true as possible.
pub(super) fn reaching(atoms: &[String], tests: &[Test]) -> Option<Vec<bool>> {
    let mut about = BTreeSet::new();
    for test in tests {
        test.atoms(&mut about);
    }
    // Ten atoms are 1,024 combinations. No branch of a real file depends on more.
    let about: Vec<_> = about.into_iter().take(10).collect();
    (0..1_u32 << about.len()).find_map(|bits| {
        let mut outcome = vec![false; atoms.len()];
        for (place, number) in about.iter().enumerate() {
            set(&mut outcome, *number, bits >> place & 1 == 1);
        }
        let holds = |number: usize| outcome.get(number) == Some(&true);
        let reached = tests.iter().all(|test| test.holds(&holds));
        (reached && is_possible(atoms, &outcome)).then_some(outcome)
    })
}

fn set(outcome: &mut [bool], number: usize, value: bool) {
    if let Some(place) = outcome.get_mut(number) {
        *place = value;
    }
}

/// Whether a version of HAProxy exists for which the version conditions turn out so.
fn is_possible(atoms: &[String], outcome: &[bool]) -> bool {
    let (mut least, mut below) = (Vec::new(), None::<Vec<u32>>);
    for (atom, holds) in atoms.iter().zip(outcome) {
        let (at_least, text) =
            match (atom.strip_prefix("version_atleast("), atom.strip_prefix("version_before(")) {
                (Some(text), _) => (true, text),
                (_, Some(text)) => (false, text),
                _ => continue,
            };
        let Some(version) = numbers(text) else { continue };
        // A version that is at least 3.2 rules out every outcome in which it is before 3.0.
        if at_least == *holds {
            least = least.max(version);
        } else if below.as_ref().is_none_or(|below| version < *below) {
            below = Some(version);
        }
    }
    below.is_none_or(|below| least < below)
}

/// The numbers of a version, from `3.2)` or `"3.2")`.
fn numbers(text: &str) -> Option<Vec<u32>> {
    let text = text.trim_end_matches(')').trim().trim_matches('"');
    text.split(['.', '-']).take(3).map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Test, Vec<String>) {
        let mut atoms: Vec<String> = Vec::new();
        let found = Test::read(text, &mut |text| {
            let known = atoms.iter().position(|atom| atom == text);
            Test::Atom(known.unwrap_or_else(|| {
                atoms.push(text.to_owned());
                atoms.len() - 1
            }))
        });
        (found, atoms)
    }

    #[test]
    fn conditions_are_read_with_their_operators() {
        use Test::{And, Atom, Not, Or};
        let not = |test| Not(Box::new(test));
        for (text, want) in [
            ("defined(A)", Atom(0)),
            ("! defined(A)", not(Atom(0))),
            ("!!defined(A)", Atom(0)),
            ("defined(A) && !defined(B)", And(vec![Atom(0), not(Atom(1))])),
            (
                "defined(A)||streq(a,b c)&&defined(A)",
                Or(vec![Atom(0), And(vec![Atom(1), Atom(0)])]),
            ),
            ("!(defined(A) || defined(B))", not(Or(vec![Atom(0), Atom(1)]))),
            ("(defined(A)", Atom(0)),
            ("&& x", Atom(0)),
            ("", Atom(0)),
        ] {
            assert_eq!(read(text).0, want, "{text}");
        }
        assert_eq!(read("streq(a,b c)").1, ["streq(a,b c)"]);
    }

    #[test]
    fn versions_that_cannot_be_are_left_out() {
        let atoms = ["version_atleast(3.0)", "version_atleast(3.2)", "version_before(3.0)"];
        let atoms = atoms.map(str::to_owned);
        let found = outcomes(&atoms, &(0..3).collect());
        let want = [[false, false, true], [true, false, false], [true, true, false]];
        assert_eq!(found, want.map(Vec::from).into_iter().collect());
    }

    #[test]
    fn rules_are_combined_and_the_rest_is_tried_together() {
        let atoms: Vec<_> = (0..5).map(|number| format!("defined(A{number})")).collect();
        let found = outcomes(&atoms, &[0, 1].into());
        // Four combinations, of which one has all true and one all false.
        assert_eq!(found.len(), 4);
        let many: Vec<_> = (0..40).map(|number| format!("defined(A{number})")).collect();
        let all = outcomes(&many, &(0..40).collect());
        assert!(all.len() < 600, "{}", all.len());
        let deep = [Test::Atom(3), Test::Not(Box::new(Test::Atom(7)))];
        let found = reaching(&many, &deep).unwrap();
        assert!(found[3] && !found[7]);
        assert_eq!(reaching(&many, &[Test::Constant(false)]), None);
    }
}
