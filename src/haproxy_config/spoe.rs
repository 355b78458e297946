//! Reads an SPOE configuration file: the agents, messages and groups of one engine (HAProxy's doc/SPOE.txt, section 2).
//!
//! Lines that HAProxy would refuse are ignored here.

use super::{
    document::{At, Line, Source},
    line::{self, Environment},
};

/// The sections of one engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Engine {
    /// The first `spoe-agent` section.
    pub agent: Option<Block>,
    /// The `spoe-message` sections.
    pub messages: Vec<Block>,
    /// The `spoe-group` sections.
    pub groups: Vec<Block>,
}

/// A section of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The place of its first line.
    pub at: At,
    /// The name of the agent, message or group.
    pub name: String,
    /// The lines after the first one.
    pub lines: Vec<Line>,
}

impl Block {
    /// The first line that begins with these words.
    #[must_use]
    pub fn line(&self, words: &[&str]) -> Option<&Line> {
        self.lines.iter().find(|line| line.words.iter().take(words.len()).eq(words.iter()))
    }

    /// The words that follow these words, on all lines that begin with them.
    pub fn after(&self, words: &[&str]) -> impl Iterator<Item = &String> {
        let lines = self.lines.iter().filter(|l| l.words.iter().take(words.len()).eq(words.iter()));
        lines.flat_map(|line| line.words.iter().skip(words.len()))
    }

    /// The arguments of a message as pairs of name and sample.
    pub fn args(&self) -> impl Iterator<Item = (&str, &str)> {
        self.after(&["args"]).map(|arg| arg.split_once('=').unwrap_or(("", arg)))
    }
}

impl Engine {
    /// Reads the sections of a scope (`[NAME]`), or without a scope those that stand before any. `file` is the index of
    /// the file, for places. Lines that cannot be read are ignored; HAProxy refuses them.
    #[must_use]
    pub fn read(source: &Source, file: usize, scope: Option<&str>) -> Self {
        let mut engine = Self::default();
        let mut inside = scope.is_none();
        let environment = Environment::new();
        // The open section. Lines before the first section belong to none.
        let mut open: Option<(BlockKind, Block)> = None;
        for (index, text) in source.text.lines().enumerate() {
            let at = At { file, line: index + 1 };
            let trimmed = text.trim();
            // Only a comment may follow the bracket; otherwise HAProxy takes the line for another one.
            let name = trimmed.strip_prefix('[').and_then(|rest| rest.split_once(']'));
            let name = name
                .filter(|(_, after)| matches!(after.trim_start().chars().next(), None | Some('#')));
            if let Some((name, _)) = name {
                // A new scope ends the open section.
                inside = scope == Some(name);
                engine.close(open.take());
                continue;
            }
            let Ok(words) = line::words(text, &environment) else { continue };
            let Some(first) = words.first().filter(|_| inside) else { continue };
            let kind = match first.as_str() {
                "spoe-agent" => BlockKind::Agent,
                "spoe-message" => BlockKind::Message,
                "spoe-group" => BlockKind::Group,
                _ => {
                    if let Some((_, block)) = &mut open {
                        block.lines.push(Line::new(at, words));
                    }
                    continue;
                }
            };
            engine.close(open.take());
            let name = words.get(1).cloned().unwrap_or_default();
            open = Some((kind, Block { at, name, lines: Vec::new() }));
        }
        engine.close(open);
        engine
    }

    fn close(&mut self, open: Option<(BlockKind, Block)>) {
        match open {
            Some((BlockKind::Agent, block)) => {
                // HAProxy refuses a second agent in one scope.
                self.agent.get_or_insert(block);
            }
            Some((BlockKind::Message, block)) => self.messages.push(block),
            Some((BlockKind::Group, block)) => self.groups.push(block),
            None => {}
        }
    }

    /// The message of a name.
    #[must_use]
    pub fn message(&self, name: &str) -> Option<&Block> {
        self.messages.iter().find(|message| message.name == name)
    }

    /// Whether a group sends a message.
    #[must_use]
    pub fn sends(&self, group: &str, message: &str) -> bool {
        let mut groups = self.groups.iter().filter(|block| block.name == group);
        groups.any(|block| block.after(&["messages"]).any(|name| name == message))
    }

    /// Whether the agent sends a message at an event of this kind (`http-request`, `tcp-request`), without a rule that
    /// sends a group.
    #[must_use]
    pub fn sends_by_itself(&self, message: &str, kind: &str) -> bool {
        // Both are needed: the agent lists the message, and the message has an event.
        let listed = self.agent.iter().flat_map(|agent| agent.after(&["messages"]));
        let event = self.message(message).and_then(|block| block.line(&["event"]));
        let event = event.and_then(|line| line.words.get(1));
        listed.into_iter().any(|name| name == message)
            && event.is_some_and(|event| event.ends_with(kind))
    }
}

enum BlockKind {
    Agent,
    Message,
    Group,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_may_follow_the_name_of_a_scope() {
        for line in ["[identity]", "  [identity]  # comment", "[identity]# [other]"] {
            let text = format!("{line}\nspoe-agent identity\n");
            let engine = Engine::read(&Source { name: "x".into(), text }, 0, Some("identity"));
            assert!(engine.agent.is_some(), "{line}");
        }
        let text = "[identity] x\nspoe-agent identity\n".into();
        let engine = Engine::read(&Source { name: "x".into(), text }, 0, Some("identity"));
        assert!(engine.agent.is_none());
    }

    #[test]
    fn the_shipped_file_is_read() {
        let text = include_str!("../../haproxy/identity.spoe.cfg");
        let source = Source { name: "identity.spoe.cfg".into(), text: text.into() };
        let engine = Engine::read(&source, 3, Some("identity"));
        let agent = engine.agent.as_ref().unwrap();
        assert_eq!(agent.line(&["option", "var-prefix"]).unwrap().words[2], "identity");
        assert!(engine.sends("authorize", "authorize") && !engine.sends("authorize-tcp", "x"));
        let message = engine.message("authorize").unwrap();
        assert!(message.args().any(|arg| arg == ("hosts", "req.fhdr_cnt(host)")));
        assert_eq!(Engine::read(&source, 3, Some("other")), Engine::default());
        assert_eq!(Engine::read(&source, 3, None), Engine::default());
    }
}
