# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
"""A list of stores in a file: read, checked as a whole, compared with what is there, written."""
