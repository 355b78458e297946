use super::*;
use crate::workspaces::{
    Destination, Endpoint, EndpointName, EndpointOrigins, Person, Phase, Protocol, Revision,
    directory::Member,
};

fn registry(sources: &[&str]) -> Vec<Publisher> {
    let sources: Vec<_> = sources.iter().map(|name| (*name, SourceRules::default())).collect();
    let registry = Arc::new(Registry::new(&sources, Arc::default()));
    (0..sources.len())
        .map(|number| Publisher::new(Arc::clone(&registry), SourceId::new(number)))
        .collect()
}

fn one() -> Publisher {
    registry(&["one"]).remove(0)
}

fn at(secs: u64) -> MonotonicTime {
    MonotonicTime::at(Duration::from_secs(secs))
}

fn workspace(id: &str, phase: Phase) -> Workspace {
    let owner = Person { subject: Some("s".into()), ..Person::default() };
    let endpoint = Endpoint {
        name: EndpointName::Main,
        protocol: Protocol::Http,
        admission: Admission::Owner,
        destination: Destination::Backend("b".into()),
        origins: EndpointOrigins::default(),
    };
    Workspace {
        id: id.parse().unwrap(),
        instance: None,
        revision: Revision::default(),
        organization: None,
        owner_label: "s".into(),
        owner,
        grants: vec![],
        phase,
        address: None,
        template: None,
        endpoints: vec![endpoint],
        paths: vec![],
    }
}

fn running(id: &str) -> Workspace {
    workspace(id, Phase::Running)
}

fn placed(id: &str, address: &str) -> Workspace {
    let mut workspace = running(id);
    workspace.endpoints[0].destination = Destination::Address(address.parse().unwrap());
    workspace
}

fn revised(id: &str, instance: &str, status: u64, phase: Phase) -> Workspace {
    let revision = Revision { spec: None, status: Some(status) };
    Workspace { instance: Some(instance.into()), revision, ..workspace(id, phase) }
}

fn phase(publisher: &Publisher, id: &str) -> Option<Phase> {
    match publisher.registry().snapshot().find(None, id) {
        LookupResult::Workspace(record) => Some(record.workspace.phase),
        _ => None,
    }
}

fn id(text: &str) -> WorkspaceId {
    text.parse().unwrap()
}

#[test]
fn a_read_that_began_before_the_end_does_not_bring_a_workspace_back() {
    let publisher = one();
    assert_eq!(publisher.observe(running("w"), at(1), at(1)), ObserveOutcome::Changed);
    publisher.end(&id("w"), at(5));
    assert_eq!(
        publisher.observe(running("w"), at(4), at(4)),
        ObserveOutcome::Unchanged,
        "read before the end"
    );
    assert_eq!(publisher.observe(running("w"), at(5), at(5)), ObserveOutcome::Unchanged);
    assert_eq!(phase(&publisher, "w"), None);
    assert_eq!(
        publisher.observe(running("w"), at(6), at(6)),
        ObserveOutcome::Changed,
        "started again"
    );
    assert_eq!(phase(&publisher, "w"), Some(Phase::Running));
}

#[test]
fn a_list_that_began_before_the_end_does_not_bring_a_workspace_back() {
    let publisher = one();
    publisher.end(&id("w"), at(5));
    publisher.complete(vec![running("w")], at(4), at(4), ListExtent::Snapshot);
    assert_eq!(phase(&publisher, "w"), None);
}

#[test]
fn a_copy_that_lags_behind_a_reported_end_is_told_by_its_revision() {
    let publisher = one();
    publisher.observe(revised("w", "i1", 7, Phase::Running), at(1), at(1));
    publisher.end(&id("w"), at(5));
    assert_eq!(
        publisher.observe(revised("w", "i1", 7, Phase::Running), at(6), at(6)),
        ObserveOutcome::Unchanged,
        "the old life"
    );
    assert_eq!(
        publisher.observe(revised("w", "i2", 1, Phase::Running), at(7), at(7)),
        ObserveOutcome::Changed,
        "a new one"
    );
}

#[test]
fn what_was_read_earlier_or_is_of_an_older_revision_is_dropped() {
    let publisher = one();
    publisher.observe(revised("w", "i", 2, Phase::Stopped), at(10), at(10));
    assert_eq!(
        publisher.observe(revised("w", "i", 3, Phase::Running), at(9), at(9)),
        ObserveOutcome::Unchanged
    );
    assert_eq!(
        publisher.observe(revised("w", "i", 1, Phase::Running), at(11), at(11)),
        ObserveOutcome::Unchanged
    );
    assert_eq!(phase(&publisher, "w"), Some(Phase::Stopped));
    assert_eq!(
        publisher.observe(revised("w", "i2", 1, Phase::Running), at(12), at(12)),
        ObserveOutcome::Changed,
        "another life"
    );
}

#[test]
fn only_a_whole_list_removes_at_once_and_only_what_is_older_than_it() {
    let publisher = one();
    publisher.complete(
        vec![running("a"), running("b"), workspace("c", Phase::Stopped)],
        at(1),
        at(1),
        ListExtent::Pages,
    );
    publisher.observe(running("d"), at(6), at(6));
    let completed = publisher.complete(vec![running("a")], at(5), at(5), ListExtent::Pages);
    assert_eq!(completed.unclear, [id("b")], "to be read one by one");
    assert_eq!(completed.removed, 1, "what is down needs no second look");
    assert_eq!(phase(&publisher, "d"), Some(Phase::Running), "came after the list began");
    publisher.complete(vec![running("a")], at(7), at(7), ListExtent::Snapshot);
    assert_eq!((phase(&publisher, "b"), phase(&publisher, "d")), (None, None));
}

#[test]
fn a_workspace_that_a_list_lacks_keeps_the_age_of_the_list_before() {
    let publisher = one();
    let age = |now| match publisher.registry().snapshot_at(now).find(None, "b") {
        LookupResult::Workspace(record) => record.age.as_secs(),
        _ => panic!("gone"),
    };
    for secs in [1, 100] {
        publisher.complete(vec![running("a"), running("b")], at(secs), at(secs), ListExtent::Pages);
        publisher.confirm(at(secs));
    }
    assert_eq!(age(at(110)), 10);
    publisher.complete(vec![running("a")], at(200), at(200), ListExtent::Pages);
    publisher.confirm(at(200));
    assert_eq!(age(at(210)), 110);
    publisher.observe(running("b"), at(205), at(205));
    assert_eq!(age(at(210)), 5);
}

#[test]
fn a_doubtful_workspace_is_older_than_any_limit_until_it_is_read() {
    let publisher = one();
    publisher.complete(vec![running("w")], at(1), at(1), ListExtent::Snapshot);
    publisher.confirm(at(1));
    publisher.doubt(&id("w"));
    let age = || match publisher.registry().snapshot_at(at(2)).find(None, "w") {
        LookupResult::Workspace(record) => record.age,
        _ => panic!("gone"),
    };
    assert_eq!(age(), Duration::MAX);
    publisher.observe(running("w"), at(2), at(2));
    assert_eq!(age(), Duration::ZERO);
}

#[test]
fn two_workspaces_at_one_address_are_both_contested_until_one_goes() {
    let publishers = registry(&["one", "two"]);
    let contested = |id: &str| match publishers[0].registry().snapshot().find(None, id) {
        LookupResult::Workspace(record) => record.contested,
        _ => panic!("{id} is gone"),
    };
    publishers[0].observe(placed("a", "10.0.0.1:80"), at(1), at(1));
    publishers[1].observe(placed("b", "10.0.0.2:80"), at(1), at(1));
    assert!(!contested("a") && !contested("b"));
    publishers[1].observe(placed("b", "10.0.0.1:80"), at(2), at(2));
    assert!(contested("a") && contested("b"));
    let stopped = Workspace { phase: Phase::Stopping, ..placed("a", "10.0.0.1:80") };
    publishers[0].observe(stopped, at(3), at(3));
    assert!(!contested("a") && !contested("b"), "what is down claims nothing");
    publishers[0].observe(placed("a", "10.0.0.1:80"), at(4), at(4));
    assert!(contested("b"));
    publishers[0].end(&id("a"), at(5));
    assert!(!contested("b"));
}

#[test]
fn where_undeclared_ports_are_open_an_address_is_one_workspaces_alone() {
    let rules = SourceRules { undeclared_ports: UndeclaredPorts::Owner, ..SourceRules::default() };
    let registry = Arc::new(Registry::new(&[("one", rules)], Arc::default()));
    let publisher = Publisher::new(Arc::clone(&registry), SourceId::new(0));
    for (id, address) in [("a", "10.0.0.1:80"), ("b", "10.0.0.1:81")] {
        let workspace = Workspace { address: Some([10, 0, 0, 1].into()), ..placed(id, address) };
        publisher.observe(workspace, at(1), at(1));
    }
    assert_eq!(registry.snapshot().state(SourceId::new(0)).unwrap().contested, 2);
}

#[test]
fn an_id_that_two_sources_have_is_ambiguous_unless_the_host_names_the_source() {
    let publishers = registry(&["one", "two"]);
    for publisher in &publishers {
        publisher.complete(vec![running("w")], at(1), at(1), ListExtent::Snapshot);
        publisher.confirm(at(1));
    }
    let snapshot = publishers[0].registry().snapshot_at(at(2));
    assert!(matches!(snapshot.find(None, "w"), LookupResult::Ambiguous));
    assert!(matches!(snapshot.find(Some(SourceId::new(1)), "w"), LookupResult::Workspace(_)));
    assert!(matches!(snapshot.find(None, "x"), LookupResult::Unknown));
}

#[test]
fn a_workspace_is_not_unknown_while_a_source_is_silent() {
    let publishers = registry(&["one", "two"]);
    publishers[0].complete(vec![], at(1), at(1), ListExtent::Snapshot);
    publishers[0].confirm(at(1));
    let registry = publishers[0].registry();
    assert!(matches!(registry.snapshot_at(at(2)).find(None, "w"), LookupResult::NotLoaded));
    assert!(matches!(
        registry.snapshot_at(at(2)).find(Some(SourceId::new(0)), "w"),
        LookupResult::Unknown
    ));
    publishers[1].confirm(at(2));
    assert!(matches!(registry.snapshot_at(at(2)).find(None, "w"), LookupResult::Unknown));
    assert!(
        matches!(registry.snapshot_at(at(900)).find(None, "w"), LookupResult::NotLoaded),
        "stale"
    );
}

#[test]
fn a_change_costs_no_copy_of_the_others() {
    let publisher = one();
    let list = (0..1000).map(|n| running(&format!("w{n}"))).collect();
    publisher.complete(list, at(1), at(1), ListExtent::Snapshot);
    let before = publisher.registry().snapshot();
    publisher.end(&id("w7"), at(2));
    // Readers of the old snapshot still see all of it.
    assert_eq!((before.len(), publisher.registry().snapshot().len()), (1000, 999));
}

#[test]
fn the_directory_is_of_its_source() {
    let publishers = registry(&["one", "two"]);
    let member = Member {
        account: "1".into(),
        person: Person::default(),
        label: "1".into(),
        active: true,
        platform_groups: vec![],
    };
    publishers[1].set_directory(Directory::new([member]));
    let snapshot = publishers[0].registry().snapshot();
    assert!(snapshot.directory(SourceId::new(0)).is_none());
    assert_eq!(snapshot.directory(SourceId::new(1)).unwrap().len(), 1);
}

#[test]
fn s5_two_spellings_of_one_address_are_contested() {
    for other in [
        "[::ffff:10.0.0.1]:80",
        "[::10.0.0.1]:80",
        "[::ffff:0:10.0.0.1]:80",
        "[64:ff9b::10.0.0.1]:80",
        "[64:ff9b:1::10.0.0.1]:80",
        "[64:ff9b:1:a00:0:100::]:80",
        "[2002:a00:1::1]:80",
        "[2001:0:a00:1::1]:80",
        "[2001:db8::5efe:10.0.0.1]:80",
    ] {
        let publishers = registry(&["one", "two"]);
        publishers[0].observe(placed("a", "10.0.0.1:80"), at(1), at(1));
        publishers[1].observe(placed("b", other), at(1), at(1));
        let snapshot = publishers[0].registry().snapshot();
        for id in ["a", "b"] {
            let LookupResult::Workspace(record) = snapshot.find(None, id) else { panic!("{id}") };
            assert!(record.contested, "{id} {other}");
        }
        drop(snapshot);
        publishers[0].end(&id("a"), at(2));
        publishers[1].observe(placed("c", "10.0.0.1:81"), at(2), at(2));
        let snapshot = publishers[0].registry().snapshot();
        for id in ["b", "c"] {
            let LookupResult::Workspace(record) = snapshot.find(None, id) else { panic!("{id}") };
            assert!(!record.contested, "{id} {other}: another port");
        }
    }
}
