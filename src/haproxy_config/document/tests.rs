use super::*;

fn document(text: &str) -> Document {
    Document::read(&[Source { name: "t".into(), text: text.into() }])
}

fn names(document: &Document) -> Vec<String> {
    let name = |s: &Section| s.name.clone();
    document.variants().map(|v| v.iter().map(name).collect::<Vec<_>>().join(",")).collect()
}

#[test]
fn each_way_the_conditions_turn_out_is_a_variant() {
    let text = "frontend a\n.if defined(X)\nfrontend b\n.elif !defined(Y)\nfrontend c\n.else\n\
                frontend d\n.endif\n";
    let mut found = names(&document(text));
    found.sort();
    assert_eq!(found, ["a,b", "a,c", "a,d"]);
    let many: Vec<_> = (0..40).map(|n| format!(".if c({n})\nfrontend f{n}\n.endif\n")).collect();
    let found = names(&document(&many.concat()));
    assert!(found.len() < 600, "{}", found.len());
    // Each of them alone, and all without it.
    for n in 0..40 {
        assert!(found.iter().any(|names| names.split(',').any(|name| name == format!("f{n}"))));
    }
}

#[test]
fn what_the_files_decide_themselves_has_one_outcome() {
    let text = "global\npresetenv X 1\n.if defined(X)\nfrontend a\n.else\nfrontend b\n.endif\n\
                .if 0\nfrontend c\n.endif\n.if !defined(X) || 1\nfrontend d\n.endif\n";
    assert_eq!(names(&document(text)), [",a,d"]);
    // A branch that only one rare combination reaches is reached.
    let deep = ".if a()\n.if !b()\n.if c()\n.if !d()\nserver x\n.endif\n.endif\n.endif\n.endif\n";
    let text = format!("backend z\n{deep}");
    let reached = document(&text).variants().any(|v| !v[0].lines.is_empty());
    assert!(reached);
}

#[test]
fn p4_text_that_is_not_utf8_is_read_byte_by_byte() {
    let source = Source::from_bytes("t".into(), b"frontend a # caf\xe9\n".to_vec());
    assert_eq!(source.text, "frontend a # caf\u{e9}\n");
    let document = Document::read(&[source]);
    assert!(document.unreadable.is_empty());
    assert_eq!(document.variant(|_| true)[0].name, "a");
}

#[test]
fn sections_inherit_from_the_defaults_before_them_or_those_they_name() {
    let text = "defaults\nmode http\ndefaults t\nmode tcp\nfrontend a\nbind :80\n\
                backend b from t\nlisten c from x\n";
    let sections = document(text).variants().next().unwrap();
    let inherited: Vec<_> = sections.iter().map(|s| s.defaults).collect();
    assert_eq!(inherited, [None, None, Some(1), Some(1), None]);
    assert_eq!(sections[2].lines[0].at, At { file: 0, line: 6 });
}

#[test]
fn what_cannot_be_read_is_listed_with_its_place() {
    for (text, line) in
        [("a\nb 'c\n", 2), ("\n.endif\n", 2), (".if x\n", 1), (".else\n", 1), (".elif x\n", 1)]
    {
        let found = document(text).unreadable;
        assert_eq!(found.len(), 1, "{text:?} {found:?}");
        assert_eq!(found[0].at.line, line, "{text:?}");
    }
}
