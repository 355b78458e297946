use proptest::prelude::*;

use super::*;

/// Answers of real HAProxies with two upgraded requests and a TCP stream: (version, file).
macro_rules! answers {
    ($what:literal) => {
        [
            (
                "2.6",
                &include_bytes!(concat!("../../../fuzz/corpus/runtime/haproxy-2.6-", $what))[..],
            ),
            ("3.0", include_bytes!(concat!("../../../fuzz/corpus/runtime/haproxy-3.0-", $what))),
            ("3.2", include_bytes!(concat!("../../../fuzz/corpus/runtime/haproxy-3.2-", $what))),
            ("3.4", include_bytes!(concat!("../../../fuzz/corpus/runtime/haproxy-3.4-", $what))),
        ]
    };
}

#[test]
fn the_streams_of_every_haproxy_are_read() {
    for (version, answer) in answers!("list") {
        let List { process, streams } = list(answer).unwrap();
        assert!(process > 0, "{version}");
        let of = |name: &[u8]| streams.iter().filter(|s| *s.frontend == *name).collect::<Vec<_>>();
        assert_eq!((of(b"gate").len(), of(b"gt").len()), (2, 1), "{version}");
        // The runtime API's own.
        assert_eq!(of(b"GLOBAL")[0].source, None);
        for stream in of(b"gate") {
            assert!(stream.source.unwrap().ip().is_loopback());
            assert!(stream.age.0 < Duration::from_secs(9) && stream.age.0 < stream.age.1);
        }
    }
}

#[test]
fn haproxys_own_streams_are_listed_too() {
    // An SPOE applet of 3.0.
    let line = "0x7f80515dcc00: proto=? ts=00 epoch=0 age=3s calls=1 rate=0 cpu=0 lat=0\n";
    let all = list(format!("{line}\nName: HAProxy\nPid: 7\n\n").as_bytes()).unwrap();
    assert_eq!((all.streams.len(), &*all.streams[0].frontend), (1, &b""[..]));
    assert!(list(format!("what\n{line}\nName: HAProxy\nPid: 7\n\n").as_bytes()).is_err());
}

#[test]
fn more_of_streams_is_read_and_those_that_are_gone_are_left_out() {
    for (version, answer) in answers!("details") {
        let [upgrade, tcp] = &details(answer).unwrap()[..] else { panic!("{version}") };
        assert_eq!((&*upgrade.frontend, &*tcp.frontend), (&b"gate"[..], &b"gt"[..]));
        assert_eq!(upgrade.id, 0, "{version}: the first stream of the process");
        assert!(upgrade.is_tunnel && tcp.is_tunnel && tcp.id > 0);
        assert!(!upgrade.shares_connection && !tcp.shares_connection, "{version}");
        assert!(upgrade.source.is_some_and(|source| source.ip().is_loopback()));
    }
}

#[test]
fn r1_the_end_of_an_answer_is_read_from_the_answer() {
    for (version, answer) in answers!("list").into_iter().chain(answers!("details")) {
        let ends: Vec<_> = (0..=answer.len()).filter(|end| is_at_end(&answer[..*end])).collect();
        assert_eq!(ends, [answer.len()], "{version}");
    }
    // Empty answers before it do not mark the end.
    let shut = b"\n\nNo such session (use 'show sess').\n\nName: HAProxy\nPid: 7\nTainted: 0\n\n";
    let ends: Vec<_> = (0..=shut.len()).filter(|end| is_at_end(&shut[..*end])).collect();
    assert_eq!(ends, [shut.len()]);
    let processes = b"#<PID>  <type>\n1  master  0\n# workers\n7  worker  0\n\n";
    assert!(is_at_end(processes) && !is_at_end(&processes[..processes.len() - 1]));
    // The master drops what follows.
    let absent = b"0x7f00: proto=? age=3s\n\nCan't find the target PID matching the prefix '@!7'\n";
    assert!(is_at_end(absent) && !is_at_end(&absent[..absent.len() - 1]));
    assert_eq!(list(absent), Err(Malformed::NoProcess));
}

#[test]
fn an_incomplete_answer_is_an_error() {
    for (version, answer) in answers!("list").into_iter().chain(answers!("details")) {
        let end = answer.windows(5).rposition(|w| w == b"Pid: ").unwrap();
        for length in (0..end).step_by(7) {
            assert!(list(&answer[..length]).is_err(), "{version} {length}");
            assert!(details(&answer[..length]).is_err(), "{version} {length}");
        }
    }
}

#[test]
fn what_became_of_each_cut_is_read() {
    for (version, answer) in answers!("shut") {
        assert_eq!(shut(answer, 4), Ok(vec![true, false, true, false]), "{version}");
        assert_eq!(shut(answer, 3), Err(Malformed::Cut));
    }
    let info = "Name: HAProxy\nPid: 7\n\n";
    let denied = format!("Permission denied\n\n{info}");
    assert_eq!(
        shut(denied.as_bytes(), 1).unwrap_err().to_string(),
        "HAProxy answers: Permission denied"
    );
    assert_eq!(list(b"Permission denied\n"), Err(Malformed::answer(b"Permission denied")));
    assert_eq!(shut(info.as_bytes(), 0), Ok(vec![]));
}

#[test]
fn a_master_names_its_processes_and_a_process_is_none() {
    for (version, answer) in answers!("processes") {
        let ids = processes(answer).unwrap().unwrap();
        assert_eq!(ids.len(), 2, "{version}: {ids:?}");
        assert!(ids.iter().all(|id| *id > 1), "{version}: the master is none: {ids:?}");
    }
    assert_eq!(processes(b"Unknown command: 'show', but maybe\n"), Ok(None));
    assert_eq!(processes(b"Unknown command, but maybe one of\n"), Ok(None));
    assert_eq!(processes(b""), Err(Malformed::Cut));
    assert!(processes(b"Permission denied\n\n").is_err());
}

#[test]
fn ages_and_moments_are_read() {
    let seconds = |text: &str| duration(text.as_bytes()).map(|(a, b)| (a.as_secs(), b.as_secs()));
    assert_eq!(seconds("0s"), Some((0, 1)));
    assert_eq!(seconds("1m5s"), Some((65, 66)));
    assert_eq!(seconds("2h3m"), Some((7380, 7440)));
    assert_eq!(seconds("1d2h"), Some((93_600, 97_200)));
    assert_eq!(seconds("-3s"), Some((0, 4)));
    for odd in ["", "s", "1", "1x", "99999999999999999999d", "9999999999999999d"] {
        assert_eq!(seconds(odd), None, "{odd}");
    }
    // 2026-11-24 19:20:36.812610 UTC, written in any time zone.
    let micros = 1_795_548_036_812_610;
    for text in ["24/Nov/2026:19:20:36.812610", "25/Nov/2026:01:05:36.812610"] {
        assert_eq!(Quarter::read(text.as_bytes()), Some(Quarter::from_micros(micros)), "{text}");
    }
    for odd in ["", "1:2:3", "1:61:00.000000", "1:00:00.00000", "1:00:61.000000", "1:0x:00.000000"]
    {
        assert_eq!(Quarter::read(odd.as_bytes()), None, "{odd}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = (list(&bytes), details(&bytes), shut(&bytes, 3), processes(&bytes));
    }
}
