//! Checks with a valid token: what travels on to the workspace, and whether the next request is decided again.

use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::{
    CANARY, COUNTS, Check, Expected, HEADERS, Outcome, PARSER, ReplyKind, SCOPE, Target, judge,
    saw, send, send_two, smuggling,
};

const TOKEN: &str =
    "give a token of a person who may reach this workspace: 'identity-spoa explain' says who may";
const STRIP: &str =
    "http-request del-header Authorization unless { var(txn.identity.keep) -m sub authorization }";

/// The id of a check, what must be true, and what to do if it is not.
type About = (&'static str, &'static str, &'static str);
const PASSES: About = ("token-passes", "the token given for this test passes", TOKEN);
const ASKED_AGAIN: About =
    ("asked-again", "after an allow, the next request on the connection is decided again", SCOPE);
const HIDDEN: About = (
    "asked-again-in-a-body",
    "after an allow, a request hidden in a body is decided by itself",
    PARSER,
);
const TWO: About =
    ("two-tokens-one-good", "a valid token together with another one is refused", COUNTS);
const ARRIVES: About = (
    "spoofed-headers-arrive",
    "no identity header of the client arrives at the workspace",
    HEADERS,
);
const TRAVELS: About = ("token-travels", "the token does not arrive at the workspace", STRIP);

/// Headers by which servers believe what a gateway says about a person.
const SPOOFED: [&str; 13] = [
    "X-Forwarded-User",
    "X_Forwarded_User",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Identity-Subject",
    "X_Identity_Subject",
    "X-Identity-Workspace",
    "X-Auth-Request-User",
    "X-Remote-User",
    "Remote-User",
    "Forwarded",
];

pub(super) async fn all(target: &Target) -> Vec<Check> {
    let rest = [ASKED_AGAIN, HIDDEN, TWO, ARRIVES, TRAVELS];
    let skip = |about: About, why| check(about, Outcome::Skip(why));
    let Some(token) = &target.token else {
        let all = [PASSES].into_iter().chain(rest);
        return all.map(|about| skip(about, "no --token-file given")).collect();
    };
    let allowed = Allowed { target, token };
    let (passes, again) = allowed.twice().await;
    let mut checks = vec![check(PASSES, passes)];
    if checks.iter().any(Check::failed) {
        checks.extend(rest.map(|about| skip(about, "the token does not pass")));
        return checks;
    }
    checks.push(check(ASKED_AGAIN, again));
    checks.push(check(HIDDEN, allowed.hidden().await.unwrap_or_else(|outcome| outcome)));
    checks.push(check(TWO, allowed.two_tokens().await.unwrap_or_else(|outcome| outcome)));
    if target.echo {
        let (spoofed, token) = allowed.echo().await;
        checks.push(check(ARRIVES, spoofed));
        checks.push(check(TRAVELS, token));
    } else {
        let why = "no --echo, so the request that arrives is not seen";
        checks.extend([ARRIVES, TRAVELS].map(|about| skip(about, why)));
    }
    checks
}

fn check((id, what, fix): About, outcome: Outcome) -> Check {
    Check { id, what, outcome, fix }
}

struct Allowed<'t> {
    target: &'t Target,
    token: &'t SecretString,
}

impl Allowed<'_> {
    fn bearer(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("Authorization: Bearer {}\r\n", self.token.expose_secret()))
    }

    fn get(&self, lines: &str) -> Zeroizing<String> {
        let host = &self.target.host;
        Zeroizing::new(format!("GET / HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n"))
    }

    /// With the token, and then on the same connection without it.
    async fn twice(&self) -> (Outcome, Outcome) {
        // A verdict that outlives its request would let the second one in.
        let (first, second) = (self.get(&self.bearer()), self.get(""));
        match send_two(self.target, first.as_bytes(), second.as_bytes()).await {
            Ok((Some(first), second))
                if ReplyKind::classify(Some(&first)) == ReplyKind::LetThrough =>
            {
                (Outcome::Pass(first.status.to_string()), judge(Expected::Refused, second.as_ref()))
            }
            Ok((first, _)) => (Outcome::Fail(saw(first.as_ref())), Outcome::Skip("")),
            Err(outcome) => (outcome, Outcome::Skip("")),
        }
    }

    /// A request without the token, hidden in the body of one with it.
    async fn hidden(&self) -> Result<Outcome, Outcome> {
        let without = self.get("");
        let request = smuggling(&self.target.host, &self.bearer(), &without);
        let (first, second) = send_two(self.target, request.as_bytes(), without.as_bytes()).await?;
        Ok(match ReplyKind::classify(first.as_ref()) {
            ReplyKind::LetThrough => judge(Expected::Refused, second.as_ref()),
            // HAProxy or the agent refused the request as malformed.
            _ => Outcome::Pass(saw(first.as_ref())),
        })
    }

    async fn two_tokens(&self) -> Result<Outcome, Outcome> {
        let (good, garbage) = (self.bearer(), "Authorization: Bearer garbage\r\n");
        let mut outcome = Outcome::Skip("");
        // The gate could look at the first token or at the last.
        for lines in [[good.as_str(), garbage], [garbage, good.as_str()]] {
            let request = self.get(&Zeroizing::new(lines.concat()));
            let reply = send(self.target, request.as_bytes()).await?;
            outcome = judge(Expected::Refused, reply.as_ref());
            if matches!(outcome, Outcome::Fail(_)) {
                break;
            }
        }
        Ok(outcome)
    }

    /// Whether identity headers of the client and the token arrive at the workspace.
    async fn echo(&self) -> (Outcome, Outcome) {
        const SEEN: &str = "x-of-the-client: seen";
        let spoofed = SPOOFED.map(|name| format!("{name}: {CANARY}\r\n")).concat();
        let lines = Zeroizing::new(format!("{}{spoofed}{SEEN}\r\n", self.bearer().as_str()));
        let body = match send(self.target, self.get(&lines).as_bytes()).await {
            Ok(reply) => Zeroizing::new(reply.map(|reply| reply.body).unwrap_or_default()),
            Err(outcome) => return (outcome.clone(), outcome),
        };
        let lower = body.to_ascii_lowercase();
        // Without this header in the answer, missing others would prove nothing.
        if !lower.contains(SEEN) {
            let outcome = Outcome::Fail("the workspace's answer does not show the request".into());
            return (outcome.clone(), outcome);
        }
        let came =
            |name: &&&str| lower.contains(&format!("{}: {CANARY}", name.to_ascii_lowercase()));
        let spoofed = match SPOOFED.iter().find(came) {
            Some(name) => Outcome::Fail(format!("{name} arrived")),
            None => Outcome::Pass("none arrived".into()),
        };
        let token = if body.contains(self.token.expose_secret()) {
            Outcome::Fail("it arrived".into())
        } else {
            Outcome::Pass("it did not arrive".into())
        };
        (spoofed, token)
    }
}
