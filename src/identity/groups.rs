//! The groups of an identity as one text, for the variable `groups` of HAProxy and the header that is made of it.
//!
//! The text is for routes, headers and logs. Grants and policies decide by the list itself, which has every group. The
//! text may lack some, and says so: a rule of HAProxy must be able to tell "not a member" from "not in the text".

/// The longest text, in bytes. It holds the 200 groups that Entra puts into a token at most, each a GUID. HAProxy's buffers keep room
/// for it (`haproxy_config::room`).
pub const MAX_LENGTH: usize = 8192;

/// The groups joined by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JoinedGroups {
    text: Box<str>,
    left_out: bool,
}

impl JoinedGroups {
    /// Joins the groups in their order, up to [`MAX_LENGTH`] bytes. A name with a comma would read as two groups, so it is
    /// left out.
    #[must_use]
    pub fn new(groups: &[Box<str>]) -> Self {
        let mut text = String::new();
        let mut left_out = false;
        for group in groups {
            if group.contains(',') {
                left_out = true;
                continue;
            }
            if text.len() + group.len() >= MAX_LENGTH {
                left_out = true;
                // Not even a shorter name that follows: what is there is a beginning of the list.
                break;
            }
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(group);
        }
        Self { text: text.into(), left_out }
    }

    /// The names, separated by commas; empty where there are none.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the text lacks a group of the list.
    #[must_use]
    pub fn left_out(&self) -> bool {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(groups: &[&str]) -> (String, bool) {
        let groups: Vec<Box<str>> = groups.iter().map(|group| Box::from(*group)).collect();
        let joined = JoinedGroups::new(&groups);
        (joined.as_str().to_owned(), joined.left_out())
    }

    #[test]
    fn groups_are_joined_and_a_missing_one_is_noticed() {
        assert_eq!(joined(&[]), (String::new(), false));
        assert_eq!(joined(&["a", "b c", "d"]), ("a,b c,d".into(), false));
        assert_eq!(joined(&["a,b", "c"]), ("c".into(), true));
        assert_eq!(joined(&["a,b"]), (String::new(), true));
    }

    #[test]
    fn q7_as_many_groups_as_a_token_of_entra_can_have_are_whole() {
        let groups: Vec<_> = (0..200).map(|n| format!("{n:08x}-0000-4000-8000-{n:012x}")).collect();
        let groups: Vec<_> = groups.iter().map(String::as_str).collect();
        assert_eq!(joined(&groups), (groups.join(","), false));
    }

    #[test]
    fn the_text_ends_with_a_whole_name_before_its_limit() {
        let name = "g".repeat(99);
        let (text, left_out) = joined(&[&*name; 81]);
        assert_eq!((text.len(), left_out), (81 * 100 - 1, false));
        let (text, left_out) = joined(&[&*name; 82]);
        assert_eq!((text.len(), left_out), (81 * 100 - 1, true));
        assert!(text.split(',').all(|one| one == name));
        let names = [&*name; 81];
        let (text, left_out) = joined(&[&names[..], &[&*name, "x"]].concat());
        assert_eq!(
            (text.len(), left_out),
            (81 * 100 - 1, true),
            "nothing after the first that has no room"
        );
    }
}
