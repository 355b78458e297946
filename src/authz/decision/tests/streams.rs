//! Which endpoints a stream or a request may reach, by what they speak and where they are.

use jiff::tz::TimeZone;

use super::*;
use crate::{
    authz::policy::PolicyMode,
    workspaces::{AppName, NamedServer, destination::DestinationLimits},
};

fn gateway() -> Destination {
    let gateway = NamedServer::parse("http://gateway.test:80").unwrap();
    gateway.set_address(Some([10, 0, 0, 9].into()));
    Destination::NamedServer(Arc::new(gateway))
}

fn address() -> Destination {
    Destination::Address("10.0.0.1:22".parse().unwrap())
}

/// What is decided about a stream or request of the owner, at an endpoint like this.
fn ask(
    name: &EndpointName,
    (protocol, destination, admission): (Protocol, Destination, Admission),
    is_stream: bool,
    policies: PolicySets<'_>,
) -> Decision {
    let mut workspace = workspace(person(Some("s"), None, None));
    workspace.endpoints.push(Endpoint {
        name: name.clone(),
        protocol,
        admission,
        destination,
        origins: EndpointOrigins::default(),
    });
    let known = Arc::new(identity(&profile("corp", &[MatchBy::Subject]), "s"));
    decide(
        &place(name.clone()),
        &RequestContext { is_stream, ..RequestContext::default() },
        Authentication::Known(known),
        &snapshot(vec![workspace]),
        &permissive(),
        policies,
    )
}

#[test]
fn s1_streams_and_requests_reach_what_is_declared_for_them_at_every_endpoint() {
    use Protocol::{Http, Tcp};
    let app = EndpointName::App(AppName::new("db").unwrap());
    for name in [EndpointName::Main, EndpointName::Port(22), app] {
        for admission in [Admission::Owner, Admission::Grants, Admission::Public] {
            for (protocol, destination, is_stream, refused) in [
                (Http, address(), false, None),
                (Http, gateway(), false, None),
                (Http, Destination::Backend("b".into()), false, None),
                (Tcp, address(), true, None),
                (Http, address(), true, Some(Reason::EndpointNotTcp)),
                (Http, gateway(), true, Some(Reason::EndpointNotTcp)),
                (Http, Destination::Backend("b".into()), true, Some(Reason::EndpointNotTcp)),
                (Tcp, address(), false, Some(Reason::EndpointIsTcp)),
                (Tcp, gateway(), false, Some(Reason::EndpointIsTcp)),
                (Tcp, gateway(), true, Some(Reason::StreamNeedsAddress)),
                (Tcp, Destination::Backend("b".into()), true, Some(Reason::StreamNeedsAddress)),
            ] {
                let what = format!("{name} {admission} {protocol} {destination} {is_stream}");
                let decision = ask(
                    &name,
                    (protocol, destination, admission),
                    is_stream,
                    PolicySets::default(),
                );
                match refused {
                    None => assert_eq!(decision.verdict(), Verdict::Allow, "{what}"),
                    Some(reason) => {
                        assert_eq!((decision.reason, decision.route), (reason, None), "{what}");
                        assert!(reason.advice().is_some());
                    }
                }
            }
        }
    }
}

#[test]
fn s14_a_backend_that_is_not_permitted_gets_nothing_whatever_its_source_says() {
    let all = AllowedBackends::parse(["*"]).unwrap();
    for (backends, name, reason) in [
        (AllowedBackends::default(), "b", Reason::DestinationForbidden),
        (all.clone(), "b", Reason::Public),
        (all.clone(), "workspace", Reason::DestinationForbidden),
        (all.clone(), "reused", Reason::DestinationForbidden),
        (all, "identity-agent", Reason::DestinationForbidden),
    ] {
        let mut workspace = workspace(person(Some("s"), None, None));
        workspace.endpoints.push(Endpoint {
            name: EndpointName::Main,
            protocol: Protocol::Http,
            admission: Admission::Public,
            destination: Destination::Backend(name.into()),
            origins: EndpointOrigins::default(),
        });
        let ranges = DestinationLimits::default().with_backends(backends);
        let decision = decide(
            &place(EndpointName::Main),
            &RequestContext::default(),
            Authentication::Absent,
            &snapshot(vec![workspace]),
            &Limits { ranges, ..Limits::default() },
            PolicySets::default(),
        );
        assert_eq!(decision.reason, reason, "{name}");
    }
}

#[test]
fn s1_an_undeclared_port_is_http() {
    let mut workspace = workspace(person(Some("s"), None, None));
    workspace.address = Some([10, 0, 0, 1].into());
    let rules = SourceRules { undeclared_ports: UndeclaredPorts::Owner, ..SourceRules::default() };
    let known = Arc::new(identity(&profile("corp", &[MatchBy::Subject]), "s"));
    for (is_stream, reason) in [(false, Reason::Owner), (true, Reason::EndpointNotTcp)] {
        let decision = decide(
            &place(EndpointName::Port(99)),
            &RequestContext { is_stream, ..RequestContext::default() },
            Authentication::Known(Arc::clone(&known)),
            &ruled(rules.clone(), vec![workspace.clone()]),
            &permissive(),
            PolicySets::default(),
        );
        assert_eq!(decision.reason, reason);
    }
}

#[test]
fn s1_no_policy_turns_a_stream_into_what_an_endpoint_does_not_speak() {
    let text = "@id(\"yes\") permit(principal, action, resource);";
    let set = PolicySet::parse("test.cedar", text, PolicyMode::Replace, TimeZone::UTC);
    let set = set.unwrap_or_else(|m| panic!("{m}"));
    let policies = PolicySets { enforced: Some(&set), shadow: None };
    let endpoint = (Protocol::Http, address(), Admission::Owner);
    let decision = ask(&EndpointName::Port(22), endpoint, true, policies);
    assert_eq!(decision.reason, Reason::EndpointNotTcp);
}
