use super::*;
use crate::{
    authz::decision::Decision,
    gate::Response,
    request::Request,
    tunnels::tests::{identity, named},
};

fn note(recent: &RecentRequests, number: u32, host: &str, path: &[u8]) -> Result<(), CannotTrack> {
    let mut request = Request { host: Some(host.as_bytes()), ..Request::default() };
    request.method = Some(b"GET");
    request.path = Some(path);
    request.location.frontend = Some(b"gate");
    request.location.stream = Some(number);
    let mut decision = Decision::refuse(Reason::Owner);
    decision.identity = Some(Arc::new(identity()));
    decision.route = Some(named(false));
    let id = DecisionId::from(&format!("1-2-{number:x}")).unwrap();
    recent.note(&allowed(&decision.into(), &request, &id))
}

fn allowed<'a>(
    response: &'a Response,
    request: &'a Request<'a>,
    id: &'a DecisionId,
) -> AllowedRequest<'a> {
    AllowedRequest { response, request, id, certificates: &[], now: Timestamp::from_secs(1) }
}

fn all(recent: &RecentRequests) -> Vec<Tunnel> {
    let (mut all, mut next) = (Vec::new(), Some(0));
    while let Some(from) = next {
        next = recent.lock().some(from, |seen| all.extend(seen.tunnel()));
    }
    all
}

#[test]
fn what_is_remembered_is_all_that_decides_about_it() {
    let recent = RecentRequests::with(4);
    note(&recent, 7, "W.test:80", b"/\xff").unwrap();
    let tunnel = all(&recent).pop().unwrap();
    assert_eq!((tunnel.kind, tunnel.host.as_str()), (TunnelKind::Request, "w.test"));
    assert_eq!(tunnel.path.as_deref(), Some(&b"/\xff"[..]));
    assert_eq!(tunnel.method.as_deref(), Some(&b"GET"[..]));
    assert_eq!((tunnel.location.stream, &*tunnel.location.frontend), (Some(7), &b"gate"[..]));
    assert!(tunnel.identity.is_some() && tunnel.route == Some(named(false)));
}

#[test]
fn s4_what_the_agent_before_remembered_is_remembered_as_it_was() {
    let before = RecentRequests::with(4);
    note(&before, 7, "w.test:80", b"/\xff").unwrap();
    let was = all(&before).pop().unwrap();
    let recent = RecentRequests::with(4);
    recent.inherit(&was, Some(5)).unwrap();
    let mut seen = Vec::new();
    let _ = recent.lock().some(0, |one| {
        seen.push((one.tunnel().unwrap(), one.asked_millis(), one.is_inherited()));
    });
    let (tunnel, asked, is_inherited) = seen.pop().unwrap();
    assert_eq!(format!("{:?}", Tunnel { opened: was.opened, ..tunnel }), format!("{was:?}"));
    assert_eq!((asked, is_inherited), (Some(5), true));
    // A file that no agent wrote can take no more memory than any other.
    let path = Some(vec![b'a'; CHUNK_TEXT].into());
    assert_eq!(recent.inherit(&Tunnel { path, ..was }, None), Err(CannotTrack));
}

#[test]
fn s4_a_flood_takes_no_more_memory_and_what_it_drives_out_is_noted() {
    let recent = RecentRequests::with(8);
    let before = MonotonicTime::now();
    assert!(recent.lock().is_empty());
    let long = vec![b'a'; 2 * MAX_PATH];
    for number in 0..100_000_u32 {
        let path = if number % 3 == 0 { &long[..] } else { b"/" };
        note(&recent, number, "w.test", path).unwrap();
    }
    let ring = recent.lock();
    assert_eq!(ring.chunks.len() + ring.free.len(), 8);
    for chunk in ring.chunks.iter().chain(&ring.free) {
        assert_eq!((chunk.records.capacity(), chunk.text.capacity()), (CHUNK_RECORDS, CHUNK_TEXT));
    }
    let ForgottenSpan { from, to } = ring.lost().unwrap();
    assert!(before <= from && from < to && to <= MonotonicTime::now());
    drop(ring);
    let last = all(&recent).pop().unwrap();
    assert_eq!(last.location.stream, Some(99_999));
    // Records that were scanned for in time are not lost.
    let recent = RecentRequests::with(8);
    for number in 0..10_000 {
        note(&recent, number, "w.test", b"/").unwrap();
        if number % 128 == 0 {
            recent.tidy(MonotonicTime::now());
        }
    }
    assert_eq!(recent.lock().lost(), None);
    recent.tidy(MonotonicTime::now());
    assert!(recent.lock().is_empty() && all(&recent).is_empty());
}

#[test]
fn what_could_not_be_found_is_not_let_pass() {
    let recent = RecentRequests::with(2);
    let mut request = Request { host: Some(b"w.test"), ..Request::default() };
    request.location.frontend = Some(b"gate");
    let decision = Decision::refuse(Reason::Owner);
    let id = DecisionId::from("1-2-3").unwrap();
    let response = decision.into();
    let note = |request: &Request<'_>| recent.note(&allowed(&response, request, &id));
    assert_eq!(note(&request), Err(CannotTrack));
    request.location.source = Some([127, 0, 0, 1].into());
    assert_eq!(note(&request), Err(CannotTrack), "an address without a port");
    request.location.port = Some(7);
    assert_eq!(note(&request), Ok(()));
}
