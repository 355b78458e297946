//! Conditions of rules: `if` and `unless`, named and anonymous ACLs (HAProxy's configuration manual, section 7).
//!
//! Lint asks a [`Condition`] what it guarantees about a test such as the verdict: that the rule is followed whenever
//! the test fails ([`Condition::holds_without`]), only if it passes ([`Condition::needs`]), or never if it passes
//! ([`Condition::spares`]). All three answers are cautious: false if the condition does not guarantee it.

use std::{collections::BTreeMap, sync::Arc};

/// One test of an ACL: a sample and what it is compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Test {
    /// The sample with its converters, such as `req.hdr(host),lower`.
    pub fetch: String,
    /// The matching method (`-m`), if one is given.
    pub method: Option<String>,
    /// Whether values come from a file (`-f`, `-M`).
    pub from_file: bool,
    /// The values that it is compared with.
    pub values: Vec<String>,
}

impl Test {
    /// Whether the test compares this sample by this method.
    #[must_use]
    pub fn is(&self, fetch: &str, method: &str) -> bool {
        step();
        self.fetch == fetch && self.method.as_deref() == Some(method)
    }
}

/// A term of a condition: an ACL by name, or an anonymous one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// Whether the term is negated.
    pub negated: bool,
    /// The alternatives; one of them must pass. An ACL that is not defined has none.
    pub any: Arc<Vec<Test>>,
    /// The name of the ACL; `None` if it is anonymous.
    pub name: Option<String>,
}

/// The condition at the end of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Whether it begins with `unless` and not with `if`.
    pub unless: bool,
    /// The alternatives; all terms of one of them must hold. Empty for a rule without a condition.
    pub any: Vec<Vec<Term>>,
    /// The words of the condition, for messages.
    pub words: Vec<String>,
}

/// Adds a line of an ACL. Several lines of one name are alternatives.
pub fn add_acl(acls: &mut Acls, name: &str, words: &[String]) {
    let tests = acls.entry(name.to_owned()).or_default();
    Arc::make_mut(tests).push(Test::read(words));
}

/// The ACLs of a section by name, with their alternatives.
pub type Acls = BTreeMap<String, Arc<Vec<Test>>>;

impl Test {
    /// Reads a test: the words that follow the name of an ACL, or stand between braces.
    #[must_use]
    pub fn read(words: &[String]) -> Self {
        step();
        let mut words = words.iter();
        let mut test = Self { fetch: words.next().cloned().unwrap_or_default(), ..Self::default() };
        let mut flags = true;
        while let Some(word) = words.next() {
            match word.as_str() {
                "-m" if flags => test.method = words.next().cloned(),
                "-f" | "-M" if flags => {
                    test.from_file = true;
                    words.next();
                }
                "--" if flags => flags = false,
                // Other flags (`-i`, `-n`, `-u`) do not change what is compared.
                flag if flags && flag.starts_with('-') && flag.len() == 2 => {}
                value => {
                    flags = false;
                    test.values.push(value.into());
                }
            }
        }
        test
    }

    /// Whether the test looks at a variable whose name begins with this prefix, such as `txn.identity.`.
    #[must_use]
    pub fn mentions(&self, prefix: &str) -> bool {
        step();
        self.fetch.contains(prefix) || self.values.iter().any(|value| value.contains(prefix))
    }
}

impl Condition {
    /// Reads the condition of a rule from all words of its line.
    #[must_use]
    pub fn parse(words: &[String], acls: &Acls) -> Self {
        step();
        let start = words.iter().skip(1).position(|w| w == "if" || w == "unless");
        let Some(start) = start.map(|start| start + 1) else { return Self::default() };
        let unless = words.get(start).is_some_and(|word| word == "unless");
        let words = words.get(start + 1..).unwrap_or_default();
        let mut any: Vec<Vec<Term>> = vec![Vec::new()];
        let mut rest = words.iter().enumerate();
        let mut negated = false;
        while let Some((index, word)) = rest.next() {
            let mut word = word.as_str();
            // `!` can stand alone, and `!!` cancels itself.
            while let Some(after) = word.strip_prefix('!') {
                (word, negated) = (after, !negated);
            }
            let term = match word {
                "" => continue,
                "or" | "||" => {
                    any.push(Vec::new());
                    continue;
                }
                "{" => {
                    // An anonymous ACL ends at its brace; words inside it are never `or` or names.
                    let length = words.iter().skip(index + 1).take_while(|w| *w != "}").count();
                    let inner = words.get(index + 1..index + 1 + length).unwrap_or_default();
                    rest.nth(length);
                    Term { negated, any: Arc::new(vec![Test::read(inner)]), name: None }
                }
                name => {
                    // HAProxy's own ACLs (`METH_GET`, `TRUE`) are not in the file and have no tests here.
                    let any = acls.get(name).cloned().unwrap_or_default();
                    Term { negated, any, name: Some(name.into()) }
                }
            };
            negated = false;
            if let Some(terms) = any.last_mut() {
                terms.push(term);
            }
        }
        Self { unless, any, words: words.to_vec() }
    }

    /// Whether the rule has no condition.
    #[must_use]
    pub fn is_always(&self) -> bool {
        self.any.is_empty()
    }

    /// All terms of all alternatives.
    pub fn terms(&self) -> impl Iterator<Item = &Term> {
        self.any.iter().flatten()
    }

    /// All tests of all terms.
    pub fn tests(&self) -> impl Iterator<Item = &Test> {
        self.terms().flat_map(|term| term.any.iter())
    }

    /// Whether the rule is followed for every request that does not pass `test`.
    #[must_use]
    pub fn holds_without(&self, test: impl Fn(&Test) -> bool) -> bool {
        let is = |term: &Term| !term.any.is_empty() && term.any.iter().all(&test);
        if self.unless {
            // `unless` exempts these alternatives only, and each of them requires the test to pass.
            return self.any.iter().all(|terms| terms.iter().any(|t| is(t) && !t.negated));
        }
        // One alternative of negated tests is enough: it holds for every request that fails them.
        let refuses =
            |terms: &Vec<Term>| !terms.is_empty() && terms.iter().all(|t| is(t) && t.negated);
        self.is_always() || self.any.iter().any(refuses)
    }

    /// Whether the rule is followed only for requests that pass `test`.
    #[must_use]
    pub fn needs(&self, test: impl Fn(&Test) -> bool) -> bool {
        self.needs_it(true, test, |_| false)
    }

    /// Whether the rule is never followed for a request that passes `test`. `is_among` says whether the test is one of
    /// the alternatives of a term; it is asked by name, since a term can have many alternatives.
    #[must_use]
    pub fn spares(&self, test: impl Fn(&Test) -> bool, is_among: impl Fn(&Term) -> bool) -> bool {
        self.needs_it(false, test, is_among)
    }

    fn needs_it(
        &self,
        passed: bool,
        test: impl Fn(&Test) -> bool,
        is_among: impl Fn(&Term) -> bool,
    ) -> bool {
        let is = |term: &Term| !term.any.is_empty() && term.any.iter().all(&test);
        // A negated term holds if all its tests fail, any other term if one passes.
        let says = |term: &Term, passed: bool| {
            if passed { is(term) && !term.negated } else { term.negated && is_among(term) }
        };
        if self.unless {
            // The rule is followed if every alternative fails. One alternative that only ever fails so is enough.
            let lets = |terms: &Vec<Term>| {
                let opposite = |term: &Term| is(term) && term.negated == passed;
                !terms.is_empty() && terms.iter().all(opposite)
            };
            return self.any.iter().any(lets);
        }
        let all = |terms: &Vec<Term>| terms.iter().any(|term| says(term, passed));
        !self.is_always() && self.any.iter().all(all)
    }
}

/// Counts a step of work. Tests hold the growth of the work against the size of a file.
pub(super) fn step() {
    #[cfg(test)]
    work::step();
}

/// How much was looked at: tests see by it how the work grows with a file.
#[cfg(test)]
pub(super) mod work {
    use std::cell::Cell;

    thread_local! {
        static STEPS: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn step() {
        STEPS.set(STEPS.get() + 1);
    }

    /// How many steps there were since the last time.
    pub(crate) fn take() -> usize {
        STEPS.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::haproxy_config::line::{Environment, words};

    fn condition(rule: &str) -> Condition {
        let split = |text: &str| words(text, &Environment::new()).unwrap();
        let acls = Acls::from([
            ("ok".into(), Arc::new(vec![Test::read(&split("var(a) -m bool"))])),
            (
                "wide".into(),
                Arc::new(vec![Test::read(&split("var(a) -m bool")), Test::read(&split("src"))]),
            ),
        ]);
        Condition::parse(&split(rule), &acls)
    }

    fn is_ok(test: &Test) -> bool {
        test.fetch == "var(a)" && test.method.as_deref() == Some("bool")
    }

    #[test]
    fn a_refusal_of_all_that_does_not_pass_is_recognized() {
        for (rule, all) in [
            ("deny", true),
            ("deny unless ok", true),
            ("deny if !ok", true),
            ("deny if ! ok", true),
            ("deny unless { var(a) -m bool }", true),
            ("deny if !{ var(a) -m bool } or { src 1.2.3.4 }", true),
            ("deny unless ok { src 1.2.3.4 }", true),
            ("deny unless ok or { src 1.2.3.4 }", false),
            ("deny if !ok { src 1.2.3.4 }", false),
            ("deny if ok", false),
            ("deny unless !ok", false),
            ("deny unless wide", false),
            ("deny if !wide", false),
            ("deny unless nothing", false),
            ("deny if", false),
        ] {
            assert_eq!(condition(rule).holds_without(is_ok), all, "{rule}");
        }
    }

    #[test]
    fn a_rule_for_those_who_pass_only_is_recognized() {
        for (rule, only) in [
            ("allow if ok", true),
            ("allow if ok { src 1.2.3.4 }", true),
            ("allow unless !ok", true),
            ("allow if ok or { src 1.2.3.4 }", false),
            ("allow if wide", false),
            ("allow", false),
            ("allow unless ok", false),
        ] {
            assert_eq!(condition(rule).needs(is_ok), only, "{rule}");
        }
    }

    #[test]
    fn a_rule_that_spares_all_who_pass_is_recognized() {
        for (rule, spared) in [
            ("deny if !ok", true),
            ("deny if !ok { src 1.2.3.4 }", true),
            ("deny if !wide", true),
            ("deny unless ok", true),
            ("deny unless ok or { src 1.2.3.4 }", true),
            ("deny unless ok { src 1.2.3.4 }", false),
            ("deny if !ok or { src 1.2.3.4 }", false),
            ("deny if ok", false),
            ("deny unless !ok", false),
            ("deny unless wide", false),
            ("deny", false),
        ] {
            let spares = condition(rule).spares(is_ok, |term| term.any.iter().any(is_ok));
            assert_eq!(spares, spared, "{rule}");
        }
    }

    #[test]
    fn flags_and_values_of_a_test_are_distinguished() {
        let words = words("hdr(host) -i -m beg -- -x y", &Environment::new()).unwrap();
        let test = Test::read(&words);
        assert_eq!(test.method.as_deref(), Some("beg"));
        assert_eq!(test.values, ["-x", "y"]);
    }
}
